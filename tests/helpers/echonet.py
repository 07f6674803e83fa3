"""Small EchoNet-Dynamic folders for tests: a bright ellipse that beats on a dim, textured ground."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable

import numpy as np

from echodfkd.core.records import Conditions, VideoClip
from echodfkd.sources.video.encode import encode_avi
from echodfkd.sources.video.file_list import FILE_LIST_COLUMNS
from echodfkd.sources.video.tracing_list import TRACING_COLUMNS
from echodfkd.sources.written.writing import file_list_fields, traced_masks, tracing_fields
from echodfkd.storage.object_store import open_filesystem


def beating_clip(
    name: str, *, num_frames: int = 40, size: int = 64, fps: float = 50.0, period: int = 24, ed_frame: int = 4
) -> VideoClip:
    """An ellipse whose area is largest at ``ed_frame`` and smallest half a period later. Exact truth everywhere."""
    frames = np.arange(num_frames)
    phase = np.cos(2 * np.pi * (frames - ed_frame) / period)
    scale = 0.85 + 0.15 * phase
    y, x = np.mgrid[:size, :size].astype(np.float64)
    tilt = np.deg2rad(12 + len(name) % 5)
    along = (x - size / 2) * np.sin(tilt) + (y - size / 2) * np.cos(tilt)
    across = (x - size / 2) * np.cos(tilt) - (y - size / 2) * np.sin(tilt)
    radius = np.hypot(along / (0.36 * size), across / (0.2 * size))
    labels = (radius[None] <= scale[:, None, None]).astype(np.uint8)
    ground = 90 + 30 * np.sin(x / 9 + sum(map(ord, name)) % 7)
    video = np.where(labels == 1, 40.0, ground[None]) + 10 * phase[:, None, None]
    areas = labels.reshape(num_frames, -1).sum(axis=1)
    ed_ml, es_ml = float(areas.max()) / 10, float(areas.min()) / 10
    return VideoClip(
        clip_id=name,
        index=0,
        seed=0,
        epoch=0,
        window_start=0,
        video=np.clip(np.rint(video), 0, 255).astype(np.uint8),
        fps=fps,
        source="test",
        domain="test",
        conditions=Conditions(ef_percent=100 * (ed_ml - es_ml) / ed_ml, edv_ml=ed_ml, esv_ml=es_ml),
        truth_labels=labels,
        ed_frames=(ed_frame,),
        es_frames=(ed_frame + period // 2,),
    )


def write_echonet_folder(root: str, clips: Iterable[VideoClip], *, split: str | Callable[[int], str] = "TRAIN") -> None:
    """Write clips as an EchoNet-Dynamic folder at a path or URL; ``split`` is that of all clips, or by position."""
    fs, base = open_filesystem(root.rstrip("/"))
    files, tracings = [list(FILE_LIST_COLUMNS)], [list(TRACING_COLUMNS)]
    fs.makedirs(f"{base}/Videos", exist_ok=True)
    for position, clip in enumerate(clips):
        fs.pipe_file(f"{base}/Videos/{clip.clip_id}.avi", encode_avi(clip.video, clip.fps))
        files.append(file_list_fields(clip, clip.clip_id, split if isinstance(split, str) else split(position)))
        tracings += tracing_fields(clip.clip_id, traced_masks(clip))
    for name, rows in (("FileList.csv", files), ("VolumeTracings.csv", tracings)):
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        fs.pipe_file(f"{base}/{name}", text.getvalue().encode())


def write_small_folder(
    root: str, *, videos: int = 4, splits: tuple[str, ...] = ("TRAIN",), **shape: float
) -> list[VideoClip]:
    """Write ``videos`` beating clips named 0XA0, 0XA1 ... under ``root``; splits repeat in turn. Returns the clips."""
    clips = [beating_clip(f"0XA{number}", **shape) for number in range(videos)]  # type: ignore[arg-type]
    write_echonet_folder(str(root), clips, split=lambda position: splits[position % len(splits)])
    return clips
