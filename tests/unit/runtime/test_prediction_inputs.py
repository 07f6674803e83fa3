"""`echodfkd predict` on odd inputs.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echodfkd.sources.video.encode import encode_avi
from echodfkd.teaching.mask_files import decode_npz
from tests.helpers.dicom import dicom_bytes
from tests.helpers.video import encode
from tests.unit.runtime.test_prediction_run import VIDEO, run, student

__all__ = ["student"]


def _png(picture: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG")
    return sink.getvalue()


def test_odd_inputs_are_a_result_or_a_sentence(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = encode_avi(VIDEO, 50)
    colour = np.stack([VIDEO[0], np.roll(VIDEO[0], 9), VIDEO[0] // 2], -1)
    slower = [20 * t + 80 * max(0, t - 9) for t in range(20)]
    folder = tmp_path / "odd"
    folder.mkdir()
    files = {
        "../single.png": _png(VIDEO[0]),
        "../point.png": _png(VIDEO[0][:1, :1]),
        "colour/0.png": _png(colour),
        "colour/1.png": _png(colour[::-1]),
        "deep.dcm": dicom_bytes(VIDEO[:5], bits=16),
        "wide.avi": encode_avi(np.zeros((2, 8, 600), np.uint8), 50),
        "turned.mov": encode(
            VIDEO[:5], "libx264", "yuv420p", layout="mov", prepare=lambda stream: stream.set_display_rotation(90)
        ),
        "uneven.mov": encode(VIDEO[:20], "libx264", "yuv420p", layout="mov", times=slower),
        "4k.avi": encode(np.zeros((1, 2160, 3840), np.uint8), "mjpeg", "yuvj420p"),
        "truncated.avi": whole[: len(whole) * 2 // 3],
        "text.avi": b"hello",
        "empty.mp4": b"",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    paths = [tmp_path / "single.png", tmp_path / "point.png", folder]
    code, summary, printed = run(*paths, "--student", student, "--out", tmp_path / "out", capsys=capsys)
    results = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/result.json")}
    (deep,) = [name for name in results if name.startswith("dicom-")]
    shapes = {
        "single_png": (1, 48, 64), "point_png": (1, 1, 1), "colour": (2, 48, 64), deep: (5, 48, 64),
        "wide": (2, 8, 600), "turned": (5, 64, 48),
    }  # fmt: skip
    for name, shape in shapes.items():
        assert results[name]["error"] == "", name
        assert tuple(results[name][key] for key in ("frames", "height", "width")) == shape
        assert decode_npz((tmp_path / "out" / name / f"{name}.seg.npz").read_bytes(), name).shape == shape
    sentences = {
        "uneven": "has a variable frame rate (10 to 50 frames a second)",
        "4k": "3840 x 2160",
        "truncated": "readable frames, its header says 40",
        "text": "is not a readable video",
        "empty": "",
    }
    for name, words in sentences.items():
        assert words in results[name]["error"], name
        assert results[name]["error"]
    assert code == 0
    assert "Traceback" not in printed
    assert summary["failed"] == len(results) - len(shapes)
