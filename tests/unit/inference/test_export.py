"""A student as files of other programs: the same outputs, and what the files say of themselves.

onnxruntime had no part in the training of a student: it is the independent reference.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import InputError, RunError
from echodfkd.inference.export import checks
from echodfkd.inference.export.checks import check_file
from echodfkd.inference.export.folder import FILES, export_folder
from echodfkd.inference.export.sessions import open_session, run_stream
from echodfkd.inference.student import LoadedStudent, load_student
from echodfkd.models.students.build import build_student
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.storage.checkpoints import pack_student
from jobs import export

WINDOW = WindowConfig(frames=32, fps=32.0, size=16)
ROUGH = 0.95
SMALL = {"blocks": 2, "layers": 1, "filters": 2}


def saved(folder: Path, *, shows_masks: bool = False, **options: Any) -> str:
    """A student with random weights whose norms have seen something, as a file of ours."""
    config = StudentConfig(**{**SMALL, **options})
    torch.manual_seed(0)
    network = build_student(**config.network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.2, 2)
    if shows_masks:  # a threshold between the darkest and the brightest logit
        video = torch.from_numpy(default_phantom(seed=0, num_frames=4, fps=32, size=16, case_frames=4).clip(0).video)
        with torch.no_grad():
            logits = network.eval()(video[None]).mask_logits
            network.output_layer.layer.bias -= (logits.min() + logits.max()) / 2
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "student.safetensors"
    path.write_bytes(pack_student(network.state_dict(), {"network": config.network, "window": vars(WINDOW)}))
    return str(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedStudent, Path, dict[str, Any], list[str]]:
    """The student, its exported streams, config.json, and the lines that were printed."""
    folder, lines = tmp_path_factory.mktemp("export"), []
    source = saved(folder / "source", shows_masks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "LEAST_DICE", ROUGH)  # random weights leave most logits near the threshold
        config = export_folder(load_student(source), str(folder / "out"), formats=["stream", "int8"], say=lines.append)
    return load_student(source), folder / "out", config, lines


def wanted(student: LoadedStudent, video_BTHW: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return student.network(torch.from_numpy(video_BTHW)).mask_logits.numpy()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_a_stream_gives_the_logits_of_the_whole_clip_at_any_batch_and_size(exported: Any) -> None:
    student, folder, _, _ = exported
    session = open_session((folder / FILES["stream"]).read_bytes())
    for shape in ((1, 30, 16, 16), (3, 5, 8, 12), (2, 3, 2, 26)):
        video = noise(*shape)
        np.testing.assert_allclose(run_stream(session, video), wanted(student, video), atol=1e-5)


def test_int8_masks_are_those_of_the_student_but_for_their_border(exported: Any) -> None:
    _, folder, config, _ = exported
    streams = [open_session((folder / FILES[kind]).read_bytes()) for kind in ("stream", "int8")]
    video = checks.phantom_clips(exported[0], 1, first=50)
    float32, int8 = (run_stream(session, video) > 0 for session in streams)
    assert 2 * (float32 & int8).sum() / (float32.sum() + int8.sum()) > ROUGH
    assert config["files"][FILES["int8"]]["masks_dice"] > ROUGH
    import onnx

    kinds = [node.op_type for node in onnx.load(folder / FILES["int8"]).graph.node]
    assert "QuantizeLinear" in kinds


def test_the_files_say_what_they_are(exported: Any) -> None:
    student, folder, config, lines = exported
    assert json.loads((folder / "config.json").read_text()) == config
    assert config["size"] == 16
    assert config["network"]["blocks"] == 2
    for name, file in config["files"].items():
        data = (folder / name).read_bytes()
        assert file["bytes"] == len(data)
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert config["files"][FILES["stream"]]["largest_difference"] < 1e-5
    assert config["files"][FILES["stream"]]["frames"] >= 24
    assert [line.partition(":")[0] for line in lines if " | " not in line] == [FILES["stream"], FILES["int8"]]
    for kind in ("stream", "int8"):
        known = open_session((folder / FILES[kind]).read_bytes()).get_modelmeta().custom_metadata_map
        assert json.loads(known["network"]) == config["network"]
        assert json.loads(known["window"])["size"] == 16
    copy = load_student(str(folder / "student.safetensors"))
    assert (copy.size, copy.fps) == (student.size, student.fps)


def test_the_card_is_one_that_the_hub_reads(exported: Any) -> None:
    from huggingface_hub import ModelCard

    text = (exported[1] / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.pipeline_tag == "image-segmentation"
    assert "no medical device" in text
    assert "holds no scores" in text


def test_a_file_that_differs_is_refused_and_nothing_is_written(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream whose states are exchanged is right at the first frame, when all are zero, and wrong later."""
    import onnx

    student, folder, _, _ = exported
    model = onnx.load(folder / FILES["stream"])
    outputs = {value.name: value for value in model.graph.output}
    places = [list(outputs).index(name) for name in ("next_0", "next_1")]
    first, second = (onnx.ValueInfoProto.FromString(model.graph.output[place].SerializeToString()) for place in places)
    model.graph.output[places[0]].CopyFrom(second)
    model.graph.output[places[1]].CopyFrom(first)
    wrong = model.SerializeToString()
    video = noise(1, 3, 16, 16)
    differs = np.abs(run_stream(open_session(wrong), video) - wanted(student, video)).max(axis=(0, 2, 3, 4))
    assert differs[0] < 1e-5 < 1e-3 < differs[2]
    with pytest.raises(RunError, match="x differs from the trained student over 24 frames: its largest difference"):
        check_file(student, "x", "stream", wrong)
    monkeypatch.setattr(checks, "LEAST_DICE", 1.1)
    with pytest.raises(RunError, match=r"y differs from the trained student .* the Dice of its masks"):
        check_file(student, "y", "int8", wrong)
    monkeypatch.setattr("echodfkd.inference.export.folder.stream_onnx", lambda *_: wrong)
    with pytest.raises(RunError, match="not written"):
        export_folder(student, str(tmp_path), formats=["stream"])
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_suit_a_student_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = load_student(saved(tmp_path, bidirectional=True))
    for kind in ("stream", "int8"):
        with pytest.raises(
            InputError, match=rf"got {kind}, but this student is bidirectional, .* exported as pt2, onnx"
        ):
            export_folder(both, str(tmp_path / "out"), formats=["onnx", kind])
    with pytest.raises(InputError, match="--formats: got 'tflite', allowed are pt2, onnx, stream, int8 and all"):
        export_folder(both, str(tmp_path / "out"), formats=["tflite"])
    assert export.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert re.match(r"error: SOURCE: .* holds no published checkpoint", capsys.readouterr().err)


def test_an_export_says_what_the_student_was_trained_on_and_leaves_no_file_undescribed(tmp_path: Path) -> None:
    student = load_student(saved(tmp_path), size=32, fps=0.0)
    config = export_folder(student, str(tmp_path / "out"), formats=[])
    assert (config["size"], config["fps"], config["window"]["size"]) == (32, 0.0, 16)
    assert load_student(str(tmp_path / "out" / "student.safetensors")).size == 16
    assert "Windows: 32 frames, 16 pixels a side" in (tmp_path / "out" / "README.md").read_text()
    export_folder(student, str(tmp_path / "out"), formats=[])
    (tmp_path / "out" / FILES["onnx"]).write_bytes(b"of another student")
    with pytest.raises(InputError, match=r"holds student\.onnx of another export"):
        export_folder(student, str(tmp_path / "out"), formats=[])


@pytest.mark.slow
def test_a_student_with_a_side_of_its_own_is_exported_at_it(tmp_path: Path) -> None:
    path = saved(tmp_path, side=16, norm="group")
    export_folder(load_student(path), str(tmp_path / "out"), formats=["stream"])
    video = noise(1, 3, 16, 16)
    found = run_stream(open_session((tmp_path / "out" / FILES["stream"]).read_bytes()), video)
    np.testing.assert_allclose(found, wanted(load_student(path), video), atol=1e-4)
    file = str(tmp_path / "out" / FILES["stream"])
    with pytest.raises(InputError, match=r"--size: got 32, but .*stream.onnx takes frames of 16 pixels only"):
        load_student(file, size=32)


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"needs onnxscript, .* pip install 'echodfkd\[export\]'"):
        export_folder(load_student(saved(tmp_path)), str(tmp_path / "out"), formats=["stream"])


KINDS: tuple[dict[str, Any], ...] = (
    {"recurrence": "convlstm", "skips": True, "classes": ["LV", "LA"], "tasks": ["phase", "ef"]},
    {"recurrence": "convlstm", "blocks": 1, "layers": 2},
    {"recurrence": "convlstm_separable", "activation": "relu"},
    {"recurrence": "convgru", "norm": "group", "input": "raw"},
    {"recurrence": "mingru"},
    {"recurrence": "shift", "filters": 8},
    {"recurrence": "conv3d"},
    {"recurrence": "convlstm", "bidirectional": True},
    {"recurrence": "mingru", "bidirectional": True, "tasks": ["ef"]},
    {"recurrence": "shift", "filters": 8, "bidirectional": True},
)


@pytest.mark.slow
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_kind_of_student_is_exported_whole(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each format was held against the student; int8 is not, because random weights give masks of noise."""
    monkeypatch.setattr(checks, "LEAST_DICE", 0.0)
    config = export_folder(load_student(saved(tmp_path / "source", **options)), str(tmp_path / "out"), formats=["all"])
    kinds = ("pt2", "onnx") if options.get("bidirectional") else ("pt2", "onnx", "stream", "int8")
    assert [*config["files"]] == ["student.safetensors", *(FILES[kind] for kind in kinds)]
    clip = open_session((tmp_path / "out" / FILES["onnx"]).read_bytes())
    student = load_student(str(tmp_path / "out" / "student.safetensors"))
    for shape in ((1, 30, 16, 16), (3, 2, 8, 12)):
        video = noise(*shape)
        with torch.inference_mode():
            outputs = [output.numpy() for output in student.network(torch.from_numpy(video)) if output is not None]
        for found, known in zip(clip.run(None, {"video": video.astype(np.float32)}), outputs, strict=True):
            np.testing.assert_allclose(found, known, atol=1e-4)
    video = noise(30, 16, 16)
    for kind in ("onnx", "stream") if student.is_causal else ("onnx",):
        again = load_student(str(tmp_path / "out" / FILES[kind])).probabilities(video)
        np.testing.assert_allclose(again, student.probabilities(video), atol=1e-5)
