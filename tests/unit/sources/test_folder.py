"""Folders of cines without any list: what is found, in which order, under which names, and what is refused."""

import hashlib
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echodfkd.config.file import load_config
from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.sources.build import build_source
from echodfkd.sources.clip_source import ClipSource, WindowSettings
from echodfkd.sources.folder import FolderSource, split_of
from echodfkd.sources.mixture import MixtureSource
from echodfkd.sources.recorded import RecordedSource
from echodfkd.sources.video.dicom_elements import promises_frames
from echodfkd.sources.video.encode import encode_avi, encode_mp4
from echodfkd.sources.video.windows import pad_to_square, resample_positions, resize_video, sample_video
from echodfkd.sources.written.writing import file_name
from tests.helpers.camus import SPACING, write_nifti
from tests.helpers.dicom import PATIENT, cine, dicom_bytes, region

VIDEO = cine(12, 24, 32)
WINDOW = WindowSettings(frames=5, fps=0.0, size=32, case_frames=8)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "export"
    for path, data in {
        "a.avi": encode_avi(VIDEO, 50.0),
        "b.mp4": encode_mp4(VIDEO, 50.0),
        "b.mov": encode_mp4(VIDEO, 50.0),
        f"{PATIENT}/IM1": dicom_bytes(VIDEO),
        f"{PATIENT}/copy.dcm": dicom_bytes(VIDEO),
        "1.2.840.113": dicom_bytes(VIDEO[:9], regions=[region(0, 0, 31, 23)]),
        f"{PATIENT}/still": dicom_bytes(VIDEO[:1]),
        f"{PATIENT}/still.dcm": dicom_bytes(VIDEO[:1], syntax="implicit", elements={"NumberOfFrames": None}),
        f"{PATIENT}/report.dcm": dicom_bytes(elements=dict.fromkeys(("NumberOfFrames", "Rows", "PixelData"))),
        "DICOMDIR": b"x",
        "._a.avi": b"x",
        "notes.txt": b"x",
        "1.2.3": b"no DICOM file",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    write_nifti(root / "v.nii.gz", VIDEO)
    (root / "frames").mkdir()
    for number, frame in enumerate(VIDEO):
        sink = io.BytesIO()
        Image.fromarray(frame).save(sink, format="PNG")
        (root / "frames" / f"{number}.png").write_bytes(sink.getvalue())
    return root


def source(path, split="ALL", window=WINDOW, **options):
    return FolderSource(str(path), split, window, seed=3, **{"video_fps": 25.0, **options})


def square(frames):
    """The same frames in the middle of black squares of 32 x 32."""
    return np.pad(frames, ((0, 0), (4, 4), (0, 0)))


def test_a_folder_of_the_hugging_face_hub_is_read_as_any_other(tmp_path):
    for path, data in {
        "README.md": b"---\nlicense: mit\n---",
        "train/metadata.csv": b"file_name,ef\na.mp4,55\n",
        "train/a.mp4": encode_mp4(VIDEO, 50.0),
        "train/b.mp4": encode_mp4(VIDEO, 50.0),
        ".cache/huggingface/download/train/a.mp4.metadata": b"x",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    found = source(tmp_path / "train")
    assert found.num_cases == 2
    assert found.notes == ("files that are no cines and are left out: 1",)
    assert source(tmp_path).num_cases == 2


def test_every_kind_of_cine_is_a_case_in_the_order_of_paths(folder):
    found = source(folder)
    assert isinstance(found, ClipSource)
    assert found.notes == (
        "files of one frame or without an image that are left out: 3",
        "files that are no cines and are left out: 2",
    )
    cases = [found.case(number) for number in range(found.num_cases)]
    one, two = (hashlib.sha256(dicom_bytes(video, **more)).hexdigest()[:16] for video, more in (
        (VIDEO[:9], {"regions": [region(0, 0, 31, 23)]}), (VIDEO, {})))  # fmt: skip
    assert [case.clip_id for case in cases] == [
        f"folder-{name}-s3-case-w0"
        for name in (f"dicom-{one}-file1", f"dicom-{two}-file2", f"dicom-{two}-file3", "a", "b", "b-6", "frames", "v")
    ]
    for case in cases:
        stretched = case.clip_id.startswith("folder-v-")  # pixels of half the height: square in millimetres
        wanted = resize_video(pad_to_square(VIDEO, SPACING)[0], 32) if stretched else square(VIDEO)
        error = np.abs(case.video.astype(int) - wanted[:8]).mean()
        assert error < (4 if case.clip_id.startswith(("folder-a", "folder-b")) else 1e-9), case.clip_id  # lossy ones
        assert (case.truth_labels, case.ed_frames, case.source, case.domain) == (None, None, "folder", "folder")
    assert [case.fps for case in cases] == [50, 50, 50, 50, 50, 50, 25, 25]
    assert [case.spacing_mm for case in cases[1:4]] == [None, None, None]
    assert cases[7].spacing_mm == pytest.approx(32 * 0.6 / 32)


def test_no_name_of_a_patient_leaves_the_source(folder):
    (folder / PATIENT / "torn.dcm").write_bytes(dicom_bytes(VIDEO)[:600])
    (folder / PATIENT / "short.dcm").write_bytes(dicom_bytes(VIDEO[:3]))
    found, said = source(folder, kind="dicom"), []
    assert found.num_cases == 5
    for number in range(5):
        for make in (found.case, found.clip):
            try:
                said.append(make(number).clip_id)
            except ClipError as error:
                said += [str(error), error.clip_id]
    text = " ".join(said + list(found.notes))
    assert "DOE" not in text
    assert "torn" not in text
    assert "file4 has 3 frames at 50 fps, a training window needs 5 (window.frames)" in text
    assert "dicom-file5-s3-case" in text
    assert all(file_name(name) for name in said if re.fullmatch(r"dicom-dicom-\S+", name))


def test_a_clip_is_the_window_of_the_padded_cine(folder):
    found = source(folder, kind="dicom", window=WindowSettings(5, 40.0, 16, 8))
    clips = [found.clip(index) for index in range(9)]
    assert len({clip.clip_id for clip in clips}) == 9
    assert [clip.epoch for clip in clips] == [0] * 3 + [1] * 3 + [2] * 3
    clip = next(clip for clip in clips if "file2" in clip.clip_id)
    whole = sample_video(VIDEO, resample_positions(12, fps=50.0, target_fps=40.0))
    cut = square(whole[clip.window_start : clip.window_start + 5])
    assert np.array_equal(clip.video, resize_video(cut, 16))
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.clip(7).video, found.clip(7).video)


def test_the_side_of_a_pixel_follows_the_padding_and_the_size(tmp_path):
    spaced = {**region(0, 0, 31, 23), "PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3}
    data = dicom_bytes(VIDEO, regions=[{**spaced, "PhysicalDeltaX": 0.05, "PhysicalDeltaY": 0.05}])
    (tmp_path / "IM").write_bytes(data)
    found = source(tmp_path / "IM", kind="dicom", window=WindowSettings(5, 0.0, 16, 8))
    assert found.case(0).spacing_mm == pytest.approx(0.5 * 32 / 16)
    high = dicom_bytes(VIDEO, regions=[{**spaced, "PhysicalDeltaX": 0.05, "PhysicalDeltaY": 0.08}])
    (tmp_path / "IM").write_bytes(high)  # 24 rows of 0.8 mm, 32 columns of 0.5 mm: padded to 19.2 mm
    found = source(tmp_path / "IM", kind="dicom", window=WindowSettings(5, 0.0, 16, 8))
    assert found.case(0).spacing_mm == pytest.approx(19.2 / 16)


def test_one_file_and_an_object_store(folder, tmp_path):
    import fsspec

    one = source(folder / "a.avi")
    assert (one.num_cases, one.case(0).clip_id) == (1, "folder-a-s3-case-w0")
    fsspec.filesystem("memory").put(str(folder), f"/{tmp_path.name}", recursive=True)
    remote, local = source(f"memory://{tmp_path.name}"), source(folder)
    assert remote.num_cases == local.num_cases
    for number in (0, 3):
        assert np.array_equal(remote.case(number).video, local.case(number).video)
        assert remote.case(number).clip_id == local.case(number).clip_id


def test_a_cine_without_a_rate_names_the_option(folder):
    found = source(folder / "frames", video_fps=0.0)
    with pytest.raises(ClipError, match=r"has no frame rate; source\.video_fps gives one to such files$") as caught:
        found.case(0)
    assert caught.value.clip_id.startswith("folder-")
    assert source(folder / "frames", video_fps=30.0).case(0).fps == 30.0


def test_splits_by_hash_have_echonets_shares_and_keep_folders_together():
    splits = [split_of(f"clip{number}.avi") for number in range(20_000)]
    for split, share in {"TRAIN": 7465, "VAL": 1288, "TEST": 1277}.items():
        expected = share / 10030  # the standard deviation of a share is below 0.0031
        assert abs(splits.count(split) / len(splits) - expected) < 4 * 0.0031
    assert len({split_of(f"patient7/study{number}/IM{number}") for number in range(50)}) == 1


def test_splits_are_disjoint_and_whole(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.avi").write_bytes(b"")
    parts = [source(tmp_path, split).num_cases for split in ("TRAIN", "VAL", "TEST")]
    assert sum(parts) == 40 == source(tmp_path).num_cases
    assert source(tmp_path, "val,TEST").num_cases == parts[1] + parts[2]
    with pytest.raises(InputError, match="got 'DEV', a folder without a list has TRAIN, VAL, TEST, or ALL"):
        source(tmp_path, "DEV")
    missing = next(split for split in ("TRAIN", "VAL", "TEST") if split != split_of("a.avi"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.avi").write_bytes(b"")
    with pytest.raises(InputError, match=rf"holds no cine of split {missing} \(source.split\).* ALL takes every cine"):
        source(tmp_path / "one", missing)


def test_places_without_a_cine_say_so(folder, tmp_path):
    with pytest.raises(InputError, match=r"^source\.path: there is no file or folder .*nowhere"):
        source(tmp_path / "nowhere")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"text holds no cine \(AVI, MP4, .*\), but 1 other files"):
        source(tmp_path / "text")
    with pytest.raises(InputError, match=r"frames holds no cine \(a DICOM file\), but 1 other files"):
        source(folder / "frames", kind="dicom")


def test_the_config_names_it(folder):
    base = ["students.a.blocks=1", "source.kind=folder", f"source.path={folder}", "source.split=ALL"]
    config = load_config(None, [*base, "source.video_fps=25", "evaluation.source.kind=dicom",
                                f"evaluation.source.path={folder}", "evaluation.source.split=ALL"])  # fmt: skip
    train, test = (
        build_source(part, config.window, seed=0, case_frames=9) for part in (config.source, config.evaluation.source)
    )
    assert (train.num_cases, test.num_cases, test.name) == (8, 3, "dicom")
    mixed = MixtureSource({"a": train, "b": test}, {"a": 1, "b": 1})
    assert mixed.notes == (
        "a: files of one frame or without an image that are left out: 3",
        "a: files that are no cines and are left out: 2",
        "b: files of one frame or without an image that are left out: 3",
        "b: files that are no cines and are left out: 7",
    )
    for wrong, words in (
        ("source.path=''", "source.path: empty, but source.kind is folder; name a file or a folder"),
        ("source.kind=phantom", r"source\.video_fps: got 25, only folder and dicom read it"),
        ("source.view=4CH", "only camus has views"),
        ("source.kind=mixture", "source.path: set, but source.kind is mixture"),
        ("synthesize.frames=0", r"synthesize\.frames: got 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(None, [*base, "source.video_fps=25", wrong])


def test_a_folder_of_videos_shows_what_the_list_beside_it_shows(tmp_path):
    """The same square videos by both kinds: equal pixels at the same window."""
    square_video = square(VIDEO)
    (tmp_path / "Videos").mkdir()
    (tmp_path / "Videos" / "P0.avi").write_bytes(encode_avi(square_video, 50.0))
    (tmp_path / "FileList.csv").write_text("FileName,FPS,NumberOfFrames,Split\nP0,50,12,TRAIN\n")
    window = WindowSettings(12, 0.0, 32, 12)
    listed = RecordedSource(str(tmp_path), "ALL", window, seed=3)
    assert np.array_equal(listed.clip(0).video, source(tmp_path / "Videos", window=window).clip(0).video)


def test_a_list_of_videos_is_written_from_their_files(tmp_path, capsys):
    from echodfkd.sources.video.echonet import read_file_list
    from jobs.list_videos import main

    (tmp_path / "Videos" / "deep").mkdir(parents=True)
    for name, data in {
        "P0.avi": encode_avi(VIDEO, 50.0), "P1.mp4": encode_mp4(VIDEO[:7], 25.0), "P1.avi": encode_avi(VIDEO, 40.0),
        "torn.avi": encode_avi(VIDEO, 50.0)[:900], "=1+1.avi": encode_avi(VIDEO, 50.0), "IM.dcm": dicom_bytes(VIDEO),
        "deep/P2.avi": encode_avi(VIDEO, 50.0), "._P0.avi": b"x",
    }.items():  # fmt: skip
        (tmp_path / "Videos" / name).write_bytes(data)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "videos left out, which cannot be listed or read: 4 (first: " in said
    assert "files left out, as no list can name them: only source.kind=folder reads them: 1" in said
    rows = read_file_list(str(tmp_path))
    assert [(row.name, row.file, row.fps, row.num_frames, row.frame_size) for row in rows] == [
        ("P0", "P0.avi", 50.0, 12, (24, 32)),
        ("P1", "P1.avi", 40.0, 12, (24, 32)),
    ]
    assert [row.split for row in rows] == [split_of("P0"), split_of("P1")]
    listed = RecordedSource(str(tmp_path), "ALL", WINDOW, seed=3)
    assert listed.num_cases == 2
    assert listed.notes == ("there is no VolumeTracings.csv, so that no case has truth",)
    assert main([str(tmp_path)]) == 2
    assert "has a FileList.csv already" in capsys.readouterr().err
    (tmp_path / "FileList.csv").unlink()
    assert main([str(tmp_path), "--split", "all"]) == 2
    assert main([str(tmp_path), "--split", "TEST"]) == 0
    assert [row.split for row in read_file_list(str(tmp_path))] == ["TEST", "TEST"]


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "jpeg", "rle"])
@pytest.mark.parametrize("frames", [1, 2, 12])
def test_stills_are_known_by_the_first_bytes(syntax, frames):
    data = dicom_bytes(VIDEO[:frames], syntax=syntax)
    assert promises_frames(data, whole=True) is (frames > 1)
    assert promises_frames(data[:200], whole=False), "its elements come later"
    assert not promises_frames(data[:200], whole=True)


@pytest.mark.filterwarnings("ignore")
def test_stills_of_pydicoms_own_files_are_known():
    """Files of many makers: each that is taken for a still is one."""
    import pydicom

    checked = 0
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        data = path.read_bytes()
        if data[128:132] == b"DICM" and not promises_frames(data, whole=True):
            dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=["NumberOfFrames"], stop_before_pixels=True)
            assert str(dataset.get("NumberOfFrames") or 1) in ("1", "1A"), path  # one is damaged on purpose
            checked += 1
    assert checked > 50
