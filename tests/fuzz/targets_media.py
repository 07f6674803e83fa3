"""Videos, recorded data sets, DICOM files, weights: how they are spoiled and what must hold then."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ClipError
from echodfkd.core.records import VideoClip
from echodfkd.inference.student import load_student
from echodfkd.models.teachers.deeplabv3 import load_echonet_checkpoint
from echodfkd.models.teachers.unet import load_embedded_teacher
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.folder import FolderSource
from echodfkd.sources.recorded import RecordedSource
from echodfkd.sources.video.container import MAX_VIDEO_BYTES
from echodfkd.sources.video.decode import decode_video
from echodfkd.sources.video.encode import encode_avi, encode_mp4
from tests.fuzz.mutate import damage_bytes, damage_csv, damage_json, patch_after
from tests.helpers.avi import GREYS, avi_bytes, dib_chunks
from tests.helpers.dicom import dicom_bytes
from tests.helpers.echonet import write_small_folder
from tests.helpers.onnx import field, model, node, value_info
from tests.helpers.video import encode


class Video:
    """Video files: torn, flipped, with headers that lie, of other formats and codecs, or no videos at all."""

    name = "video"
    TAGS = (b"avih", b"strh", b"strf", b"movi", b"idx1", b"LIST", b"00dc", b"\xff\xc0", b"\xff\xda", b"\xff\xdb")
    BOXES = (
        b"stsz",
        b"stts",
        b"stsc",
        b"stco",
        b"tkhd",
        b"mvhd",
        b"mdhd",
        b"avc1",
        b"avcC",
        b"stsd",
        b"moov",
        b"mdat",
        b"elst",
    )

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        video = rng.integers(0, 255, (6, 32, 48), dtype=np.uint8)
        self.good = [encode_avi(video, 50.0), encode_mp4(video, 50.0)]
        kinds = (
            ("avi", "mpeg4", "yuv420p"),
            ("avi", "rawvideo", "gray"),
            ("avi", "ffv1", "gray"),
            ("mov", "mjpeg", "yuvj420p"),
        )
        self.good += [_encode(video, *kind) for kind in kinds]
        self.good += [avi_bytes(dib_chunks(video), 32, 48, 8, palette=GREYS)]
        self.good += [
            encode(video, "mjpeg", "yuvj420p", layout="mov", prepare=lambda stream: stream.set_display_rotation(90))
        ]
        others = (
            ("matroska", "libx264", "yuv420p"),
            ("mpegts", "mpeg2video", "yuv420p"),
            ("avi", "huffyuv", "yuv422p"),
        )
        self.other = [_encode(video, *kind) for kind in others]
        self.other += [
            b"",
            b"this is prose\n",
            b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n",
            b"ffconcat version 1.0\nfile x\n",
        ]
        self.other += [
            b"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            b"RIFF\xff\xff\xff\xffAVI ",
        ]

    def run(self, rng: random.Random) -> None:
        data, kind = rng.choice(self.good), rng.random()
        if kind < 0.1:
            data = rng.choice(self.other)
            data = data if rng.random() < 0.5 else damage_bytes(rng, data)
        elif kind < 0.55:
            data = patch_after(rng, data, self.TAGS if data[:4] == b"RIFF" else self.BOXES)
        else:
            data = damage_bytes(rng, data)
        expected = rng.choice((None, None, 6, 0, -1, 7, 10**30))
        first, length = rng.randrange(6), rng.randrange(1, 6)
        window = rng.choice((None, lambda frames, fps: (min(first, frames - 1), min(first + length, frames))))
        found = decode_video(data, name="a.avi", expected_frames=expected, window=window)
        assert found.video.dtype == np.uint8
        assert found.video.ndim == 3
        assert 0 < found.video.size <= MAX_VIDEO_BYTES
        assert expected is None or len(found.video) >= expected
        assert np.isfinite(found.fps)
        if window is not None:
            start, stop = window(len(found.video), found.fps)
            whole = decode_video(data, name="a.avi", expected_frames=expected)
            np.testing.assert_array_equal(found.video[start:stop], whole.video[start:stop])


class FileList:
    """An EchoNet folder whose FileList.csv is spoiled, or whose videos are."""

    name = "file_list"
    file = "FileList.csv"

    def __init__(self, folder: Path) -> None:
        self.root = folder
        write_small_folder(str(folder), videos=3, splits=("TRAIN", "TEST"), num_frames=20, size=32, period=12)
        self.good = (folder / self.file).read_bytes()

    def run(self, rng: random.Random) -> None:
        (self.root / self.file).write_bytes(damage_csv(rng, self.good))
        split = rng.choice(("ALL", "TRAIN", "TEST", "VAL"))
        window = WindowSettings(frames=4, fps=rng.choice((32.0, 0.0)), size=16, case_frames=12)
        source = RecordedSource(str(self.root), split, window, seed=0)
        for index in range(min(3, source.num_cases)):
            for make in (source.clip, source.case):
                clip = _unless_quarantined(make, index)
                if clip is not None:
                    assert clip.video.shape[1:] == (16, 16)
                    assert 4 <= len(clip.video) <= 12
                    assert clip.clip_id.isprintable()


class Tracings(FileList):
    """The same folder with a spoiled VolumeTracings.csv."""

    name = "tracings"
    file = "VolumeTracings.csv"


class Contours(FileList):
    """A folder in EchoNet-Pediatric's layout with spoiled contours."""

    name = "contours"
    file = "VolumeTracings.csv"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        lines = self.good.decode().splitlines()[1:]
        cells = [line.split(",") for line in lines]
        rows = [f"{name},{x},{y},{frame}" for name, x, y, _, _, frame in cells] + ["0XA1.avi,,,No Systolic"]
        self.good = "\n".join(["FileName,X,Y,Frame", *rows]).encode()


class Folder:
    """A folder of cines without a list: one file is spoiled, or has the content or the name of another kind."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self.root = folder
        (folder / "frames").mkdir(parents=True)
        video = np.random.default_rng(0).integers(0, 255, (6, 24, 32), dtype=np.uint8)
        self.good = {"a.avi": encode_avi(video, 50.0), "b.mp4": encode_mp4(video, 50.0), "DOE/IM1": dicom_bytes(video)}
        for number in range(3):
            sink = io.BytesIO()
            Image.fromarray(video[number]).save(sink, format="PNG")
            self.good[f"frames/{number}.png"] = sink.getvalue()

    def run(self, rng: random.Random) -> None:
        shutil.rmtree(self.root)
        spoiled = rng.choice(sorted(self.good))
        for path, data in self.good.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            if path == spoiled:
                data = damage_bytes(rng, data if rng.random() < 0.8 else self.good[rng.choice(sorted(self.good))])
            (self.root / path).write_bytes(data)
        window = WindowSettings(frames=3, fps=rng.choice((32.0, 0.0)), size=16, case_frames=8)
        source = FolderSource(str(self.root), "ALL", window, seed=0, video_fps=25.0)
        errors = []
        for index in range(source.num_cases):
            try:
                case = source.case(index)
            except ClipError as found:
                errors.append(found)
                continue
            assert case.video.shape[1:] == (16, 16)
            assert case.video.dtype == np.uint8
            assert "DOE" not in case.clip_id
        assert "DOE" not in " ".join(f"{error} {error.clip_id}" for error in errors)
        if errors:
            raise errors[0]


class Weights:
    """Weights files of teachers: safetensors and torch archives."""

    name = "weights"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "weights"
        teacher = load_embedded_teacher(None)
        self.safetensors = save({name: tensor for name, tensor in teacher.state_dict().items()})
        sink = io.BytesIO()
        torch.save({"state_dict": {"module.x": torch.zeros(3)}, "best_loss": np.float64(1.0)}, sink)
        self.archive = sink.getvalue()

    def run(self, rng: random.Random) -> None:
        is_teacher = rng.random() < 0.5
        good = self.safetensors if is_teacher else self.archive
        if is_teacher and rng.random() < 0.6:  # the header, where all structure is
            size = 8 + int.from_bytes(good[:8], "little")
            self.path.write_bytes(damage_bytes(rng, good[:size]) + good[size:])
        else:
            self.path.write_bytes(damage_bytes(rng, good))
        if is_teacher:
            load_embedded_teacher(str(self.path))
        else:
            load_echonet_checkpoint(str(self.path))


class OnnxStudent:
    """What an ONNX file says of its student. Its graph is not spoilt: onnxruntime reads it, outside of our reach."""

    name = "onnx_student"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "student.onnx"
        axes = np.array([2], np.int64)
        at = field(1, 1) + field(2, 7) + field(8, "axes") + field(9, axes.tobytes())
        inputs, outputs = value_info("video", ["b", "t", "h", "w"]), value_info("logits", ["b", "t", 1, "h", "w"])
        self.graph = model([node("Unsqueeze", ["video", "axes"], "logits")], [at], [inputs], [outputs])
        self.about: dict[str, Any] = {"network": StudentConfig(blocks=1, layers=1, filters=2).network}
        self.about["window"] = vars(WindowConfig(frames=4, size=16))

    def run(self, rng: random.Random) -> None:
        data = self.graph
        for key, values in self.about.items():
            text = json.dumps(values).encode()
            text = rng.choice((text, damage_json(rng, text), damage_json(rng, text), damage_bytes(rng, text)))
            data += field(14, field(1, key) + field(2, text))
        self.path.write_bytes(data)
        student = load_student(str(self.path))
        assert student.probabilities(np.zeros((2, 16, 16), np.uint8)).shape == (2, 1, 16, 16)


def _encode(video: np.ndarray, layout: str, codec: str, pixels: str) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format=layout) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = video.shape[2], video.shape[1], pixels
        for frame in video:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=pixels)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return sink.getvalue()


def _unless_quarantined(make: Callable[[int], VideoClip], index: int) -> VideoClip | None:
    """The clip, or None where it is refused under its own name, as the quarantine needs it."""
    try:
        return make(index)
    except ClipError as error:
        name, text = error.clip_id, str(error)
    assert name.startswith("recorded-")
    assert text.isprintable()
    return None
