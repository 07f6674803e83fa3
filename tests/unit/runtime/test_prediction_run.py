"""`jobs/predict.py`: a folder of videos of every kind, resumed, with files at fault.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import html
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.inference.segmentation import segment
from echodfkd.inference.student import load_student
from echodfkd.models.students.build import build_student
from echodfkd.sources.video.cine_files import CineFile
from echodfkd.sources.video.decode import decode_video
from echodfkd.sources.video.encode import encode_avi, encode_mp4
from echodfkd.storage.checkpoints import pack_student
from echodfkd.teaching.mask_files import decode_npz
from jobs.predict import main
from tests.helpers.dicom import PATIENT, UID, cine, dicom_bytes, region

NETWORK = StudentConfig(blocks=2, layers=1, filters=4)
VIDEO = cine(40, 48, 64)
STUDY = "1.2.826.0.1.3680043.8.498.77"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    about = {"network": NETWORK.network, "window": vars(WindowConfig(frames=16, fps=25.0, size=32))}
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    path.write_bytes(pack_student(build_student(**NETWORK.network).state_dict(), about))
    return str(path)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.avi").write_bytes(encode_avi(VIDEO, 50))
    (folder / "b.mp4").write_bytes(encode_mp4(VIDEO[:1], 50))
    (folder / f"{PATIENT}.dcm").write_bytes(
        dicom_bytes(
            VIDEO,
            regions=[region(0, 0, 63, 47, delta_cm=0.05)],
            elements={"BurnedInAnnotation": "YES", "StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.1"},
        )
    )
    (folder / "text.avi").write_text("hello")
    return folder


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    last = printed.out.strip().splitlines()[-1:] or ["{}"]
    return code, json.loads(last[0]) if last[0].startswith("{") else {}, printed.out + printed.err


def test_a_folder_is_segmented_and_the_same_command_goes_on(
    student: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, reads = tmp_path / "out", []
    read = CineFile.read
    monkeypatch.setattr(CineFile, "read", lambda file, path="": reads.append(file.path) or read(file, path))
    command = [videos, "--student", student, "--out", out, "--formats", "npz,nifti,nrrd,dicom"]
    code, summary, printed = run(*command, capsys=capsys)
    assert sorted(reads) == sorted(path.name for path in videos.iterdir()), "every file is read once"
    assert re.search(r"^4 of 4: .*\n", printed, re.MULTILINE)
    assert re.search(r"s of work: [0-9.]+ times as fast as the video\n", printed)
    assert (code, summary["videos"], summary["failed"]) == (0, 4, 1)
    assert summary["real_time_factor"] > 0
    assert "text.avi is not a readable video" in printed or "text is not a readable video" in printed
    with (out / "report" / "videos.csv").open() as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    (dicom,) = [name for name in rows if name.startswith("dicom-")]
    assert set(rows) == {"a", "b", dicom, "text"}
    assert (rows["a"]["frames"], rows["b"]["frames"], rows[dicom]["spacing_mm"]) == ("40", "1", "0.5")
    assert rows["text"]["error"]
    result = json.loads((out / "a" / "result.json").read_text())
    assert result["flags"], "untrained weights are unsure"
    assert rows["a"]["flags"] == " ".join(result["flags"])
    assert float(rows["a"]["doubt"]) == result["doubt"] > 1.0
    doubts = [float(row["doubt"]) for row in rows.values() if not row["error"]]
    assert next(iter(rows)) == "text", "files at fault come first"
    assert doubts == sorted(doubts, reverse=True)
    assert all(
        html.escape(sentence) in (out / "a" / "report.html").read_text() for sentence in result["flags"].values()
    )
    assert f"flags: {', '.join(result['flags'])}" in printed
    assert "may show text" in (out / dicom / "report.html").read_text(), "the page of a video has its warnings"

    codes = decode_npz((out / "a" / "a.seg.npz").read_bytes(), "a")
    wanted = segment(load_student(student), decode_video((videos / "a.avi").read_bytes(), name="a").video, fps=50)
    assert np.array_equal(codes, wanted.codes["LV"])
    volume = nib.load(out / dicom / f"{dicom}.nii.gz")
    assert volume.shape == (64, 48, 40)
    assert volume.header.get_zooms() == pytest.approx((0.5, 0.5, 0.02))
    assert np.array_equal(volume.get_fdata().T, decode_npz((out / dicom / f"{dicom}.seg.npz").read_bytes(), "d") > 127)
    assert len(decode_video((out / "a" / "overlay.mp4").read_bytes(), name="o").video) == 40
    image = pydicom.dcmread(out / dicom / f"{dicom}.dcm")
    assert np.array_equal(image.pixel_array.T, volume.get_fdata())
    assert image.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == UID
    assert "no DICOM segmentation is written" in (out / "a" / "report.html").read_text()
    for path in (path for path in out.rglob("*") if path.is_file()):
        data = path.read_bytes()
        data += gzip.decompress(data[max(data.find(b"\x1f\x8b"), 0) :]) if path.suffix in (".gz", ".nrrd") else b""
        for secret in (PATIENT, "19400101", "CLINIC", *(() if path.suffix == ".dcm" else (UID, STUDY))):
            assert secret.encode() not in data, f"{path.name} holds {secret}"
    assert PATIENT not in "".join(map(str, out.rglob("*"))).replace(str(tmp_path), "")

    (out / "a" / "result.json").unlink()
    before = (out / dicom / "report.html").stat().st_mtime_ns
    code, summary, printed = run(*command, capsys=capsys)
    assert (code, summary["videos"]) == (0, 4)
    assert "3 of 4 videos had a result already" in printed
    assert (out / dicom / "report.html").stat().st_mtime_ns == before


def test_what_cannot_be_done_is_one_sentence(
    student: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ([tmp_path / "empty"], "holds no video: expected AVI"),
        ([tmp_path / "none"], "there is no file or folder"),
        ([videos, "--formats", "gif"], "--formats: got 'gif', allowed are npz, nifti, nrrd, dicom"),
        ([videos, "--size", "33"], "--size: got 33, this student needs a multiple of 2"),
    ):
        code, _, printed = run(*arguments, "--student", student, "--out", out, capsys=capsys)
        assert code == 2
        assert words in printed
        assert "Traceback" not in printed
    one = videos / "b.mp4"
    assert run(one, "--student", student, "--out", out, capsys=capsys)[0] == 0
    code, _, printed = run(one, "--student", student, "--size", "64", "--out", out, capsys=capsys)
    assert code == 2
    assert "name another folder" in printed


def test_a_student_that_knows_more_classes_writes_a_file_for_each(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = dataclasses.replace(NETWORK, classes=["LV", "LA"], bidirectional=True)
    path = tmp_path / "student.safetensors"
    about = {"network": network.network, "window": vars(WindowConfig(frames=16, fps=0.0, size=32))}
    path.write_bytes(pack_student(build_student(**network.network).state_dict(), about))
    code, _, _ = run(videos / "a.avi", "--student", path, "--out", tmp_path / "out", capsys=capsys)
    assert code == 0
    for name in ("a.seg.npz", "a.LA.seg.npz"):
        assert decode_npz((tmp_path / "out" / "a" / name).read_bytes(), name).shape == (40, 48, 64)
