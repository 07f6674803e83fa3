"""Cines found in folders without a list, and read."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.cine_files import cine_name, find_cines, read_cine_file
from echodfkd.sources.video.encode import encode_avi
from tests.helpers.camus import write_nifti
from tests.helpers.dicom import cine, dicom_bytes

FRAMES = cine(12, 24, 32)


def png(frame: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, format="PNG")
    return sink.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "frames").mkdir()
    (root / "b.avi").write_bytes(encode_avi(FRAMES, 50))
    (root / "deep" / "er" / "Smith_John").write_bytes(dicom_bytes(FRAMES))
    (root / "deep" / "c.DCM").write_bytes(dicom_bytes(FRAMES[:7]))
    write_nifti(root / "n.nii.gz", FRAMES)
    for number in range(12):
        (root / "frames" / f"f{number}.png").write_bytes(png(FRAMES[number]))
    for name in ("README", "notes.txt", "._b.avi", ".hidden.avi", "DICOMDIR"):
        (root / name).write_text("not a cine")
    os.mkfifo(root / "pipe.avi")
    return root


def test_every_cine_is_found_and_read_and_nothing_else(folder: Path) -> None:
    found, others = find_cines(str(folder), option="PATH")
    names = [file.path for file in found]
    assert names == ["b.avi", "deep/c.DCM", "deep/er/Smith_John", "frames", "n.nii.gz"]
    assert others == 2, "README and notes.txt; hidden files and lists do not count, a pipe is no file"
    for file in found:
        video = read_cine_file(file, name="x").video
        wanted = FRAMES[:7] if file.path.endswith("DCM") else FRAMES
        # MJPEG's error is about one grey level; the other formats keep every value.
        assert np.abs(video.astype(int) - wanted).mean() < (3 if file.path == "b.avi" else 1e-9), file.path


def test_frame_10_comes_after_frame_2(folder: Path) -> None:
    (frames,) = [file for file in find_cines(str(folder), option="PATH")[0] if file.frames]
    assert [Path(path).name for path in frames.frames] == [f"f{number}.png" for number in range(12)]
    assert read_cine_file(frames, name="x").fps == 0.0


def test_names_are_plain_and_no_dicom_file_gives_its_own(folder: Path) -> None:
    names = [cine_name(file) for file in find_cines(str(folder), option="PATH")[0]]
    assert names[0] == "b"
    assert names[3:] == ["frames", "n"]
    assert all(name.startswith("dicom-") and len(name) == 22 for name in names[1:3])
    assert "Smith" not in "".join(names)
    hashed = [cine_name(file, hashed=True) for file in find_cines(str(folder), option="PATH")[0]]
    assert len(set(hashed)) == 5
    assert not {"b", "n", "frames"} & set(hashed)


def test_a_file_by_its_own_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link.avi").symlink_to(folder / "b.avi")
    for path, shape in ((folder / "b.avi", (12, 24, 32)), (tmp_path / "link.avi", (12, 24, 32)),
                        (folder / "frames" / "f3.png", (1, 24, 32))):  # fmt: skip
        ((file,), others) = find_cines(str(path), option="PATH")
        assert (read_cine_file(file, name="x").video.shape, others) == (shape, 0)


def test_places_and_files_that_cannot_be_used_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"PATH: there is no file or folder .*/none"):
        find_cines(f"{tmp_path}/none", option="PATH")
    (folder / "out.avi").symlink_to("/etc/passwd")
    (folder / "text.avi").write_text("hello")
    (folder / "bad.nii").write_bytes(b"\0" * 400)
    (folder / "bad").mkdir()
    (folder / "bad" / "1.png").write_bytes(png(FRAMES[0]))
    (folder / "bad" / "2.png").write_bytes(png(FRAMES[0][:20]))
    (folder / "torn").mkdir()
    (folder / "torn" / "1.png").write_bytes(png(FRAMES[0])[:-30])
    (folder / "Doe^Jane.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 50)
    (folder / "wrong.dcm").write_text("hello")
    files = {file.path: file for file in find_cines(str(folder), option="PATH")[0]}
    expected = {
        "out.avi": "out.avi cannot be read: out.avi is a link that leads out of the folder",
        "text.avi": "x is not a readable video",
        "bad.nii": "x ",
        "bad": r"x changes its frame size from \(24, 32\) to \(20, 32\)",
        "torn": "x: frame 0 is no readable PNG file",
        "Doe^Jane.dcm": "x ",
        "wrong.dcm": "x has no suffix of a video or a volume, and is no DICOM file",
    }
    for path, words in expected.items():
        with pytest.raises(ClipError, match=words) as caught:
            read_cine_file(files[path], name="x")
        assert "Doe" not in str(caught.value)
