"""A student out of an ONNX file: the masks of the student that was exported; strangers' files are refused.

Files for whole clips, which take longer to make, are compared in `test_export`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import echodfkd
from echodfkd.core.errors import ClipError, InputError
from echodfkd.inference.export.folder import export_folder
from echodfkd.inference.export.graphs import stream_onnx
from echodfkd.inference.export.web.page import export_page
from echodfkd.inference.segmentation import segment
from echodfkd.inference.student import load_student
from tests.unit.inference.test_export import noise, saved


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``student`` (safetensors) and its ``stream``, with the metadata that an export gives them."""
    folder = tmp_path_factory.mktemp("onnx")
    path = saved(folder, shows_masks=True)
    student = load_student(path)
    assert student.file.options is not None
    about = {"network": student.file.options.network, "window": vars(student.file.window)}
    texts = {key: json.dumps(value) for key, value in about.items()}
    (folder / "stream.onnx").write_bytes(stream_onnx(student.network, 2, texts))
    return {"student": Path(path), "stream": folder / "stream.onnx"}


def test_its_masks_are_those_of_the_student(files: dict[str, Path]) -> None:
    """At another size and rate than its own; 1e-5 of a probability may move a code by one."""
    wanted, student = load_student(str(files["student"])), load_student(str(files["stream"]))
    assert (student.size, student.fps, student.classes) == (wanted.size, wanted.fps, wanted.classes)
    video = noise(40, 30, 24)
    codes = [segment(one, video, fps=50.0, spacing_mm=0.5).codes["LV"].astype(int) for one in (student, wanted)]
    assert np.abs(codes[0] - codes[1]).max() <= 1
    found = echodfkd.load_student(files["stream"], size=32).segment(video, fps=50.0)
    assert found.mask().shape == video.shape


def test_an_exported_file_is_not_exported_again(files: dict[str, Path], tmp_path: Path) -> None:
    student = load_student(str(files["stream"]))
    for export in (
        lambda: export_folder(student, str(tmp_path), formats=[]),
        lambda: export_page(student, str(tmp_path)),
    ):
        with pytest.raises(InputError, match=r"^SOURCE: .*stream\.onnx is an exported file; name the run"):
            export()
    assert list(tmp_path.iterdir()) == []


def _changed(path: Path, out: Path, **metadata: str | None) -> str:
    import onnx

    model = onnx.load(path)
    known = {entry.key: entry.value for entry in model.metadata_props} | metadata
    del model.metadata_props[:]
    for key, value in known.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, out)
    return str(out)


def test_files_of_strangers_are_one_sentence(files: dict[str, Path], tmp_path: Path) -> None:
    network: dict[str, Any] = load_student(str(files["student"])).file.options.network  # type: ignore[union-attr]
    other = json.dumps({**network, "layers": 2})
    classes = json.dumps({**network, "classes": ["LV", "LA"]})
    cases: list[tuple[dict[str, str | None], str]] = [
        ({"network": None}, "does not describe its network"),
        ({"window": None}, "does not say which size and rate it was trained at"),
        ({"network": "[1]"}, "must hold a JSON object"),
        ({"network": json.dumps({**network, "blocks": 99})}, "describes no student"),
        ({"network": json.dumps({**network, "bidirectional": True})}, "bidirectional"),
        ({"network": other}, "takes frame, state_0, .*, expected frame, state_0"),
    ]
    for number, (metadata, words) in enumerate(cases):
        path = _changed(files["stream"], tmp_path / f"{number}.onnx", **metadata)
        with pytest.raises(InputError, match=words):
            load_student(path)
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(InputError, match=r"--student: .*text\.onnx is no ONNX model that onnxruntime"):
        load_student(str(tmp_path / "text.onnx"))
    with pytest.raises(InputError, match=r"--student: .*none\.onnx cannot be read"):
        load_student(str(tmp_path / "none.onnx"))
    student = load_student(_changed(files["stream"], tmp_path / "classes.onnx", network=classes))
    with pytest.raises(ClipError, match=r"gives logits float32 \(1, 1, 16, 16\), not \(1, 2, 16, 16\)"):
        segment(student, noise(3, 16, 16), fps=32.0)
    student = load_student(
        _changed(files["stream"], tmp_path / "w.onnx", network=json.dumps({**network, "filters": 3}))
    )
    with pytest.raises(ClipError, match="the student's ONNX file fails on this video"):
        segment(student, noise(3, 16, 16), fps=32.0)
