"""Every kind of teacher in a whole run: its file is written here, its actor opens it, a student learns from its masks.

`pytest -m slow --durations=0` says how long each kind takes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.teacher import KINDS
from echodfkd.models.teachers.deeplabv3 import DeepLabV3
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.sources.build import build_source
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.teaching.mask_files import StoredMask, encode_masks
from tests.helpers.bundles import bundle_files, monai_unet, weights_of, zipped
from tests.helpers.onnx import convolutions

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

GREY = ["teacher.pixel_mean=[33]", "teacher.pixel_std=[50]"]
RGB = ["teacher.pixel_mean=[33,33,33]", "teacher.pixel_std=[50,50,50]"]
TWO = ["teacher.activation=softmax", "teacher.outputs=[background,LV]"]


def saved(network: nn.Module, path: Path) -> str:
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return f"teacher.weights={path}"


def write_onnx(path: Path) -> str:
    weight = np.random.default_rng(0).normal(0, 0.3, (1, 1, 3, 3))
    path.write_bytes(convolutions([(weight, np.zeros(1))], shape=["n", 1, 32, 32]))
    return str(path)


def deeplabv3(folder: Path) -> list[str]:
    torch.manual_seed(0)
    state = {f"module.{key}": value for key, value in DeepLabV3().state_dict().items()}
    torch.save({"state_dict": state}, folder / "echonet.pt")
    return [f"teacher.weights={folder}/echonet.pt", "teacher.batch_frames=4"]


def onnx(folder: Path) -> list[str]:
    return [
        f"teacher.weights={write_onnx(folder / 't.onnx')}",
        "teacher.input_size=32",
        "teacher.normalise=frame",
        *GREY,
    ]


def exported(folder: Path) -> list[str]:
    batch, sink = torch.export.Dim("batch", min=1, max=256), io.BytesIO()
    program = torch.export.export(
        nn.Conv2d(1, 1, 3, padding=1), (torch.zeros(2, 1, 32, 32),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, sink)
    (folder / "t.pt2").write_bytes(sink.getvalue())
    sha256 = hashlib.sha256(sink.getvalue()).hexdigest()
    return [f"teacher.weights={folder}/t.pt2", f"teacher.sha256={sha256}", "teacher.input_size=32", *GREY]


def torchvision(folder: Path) -> list[str]:
    import_torchvision()
    from torchvision.models import get_model

    name = "lraspp_mobilenet_v3_large"
    network = get_model(name, weights=None, weights_backbone=None, num_classes=2)
    return [saved(network, folder / "t.safetensors"), f"teacher.network={name}", *RGB, *TWO]


def smp(folder: Path) -> list[str]:
    import_torchvision()
    library = pytest.importorskip("segmentation_models_pytorch")
    network = library.create_model("unet", "resnet18", encoder_weights=None, in_channels=3, classes=2)
    return [saved(network, folder / "t.safetensors"), "teacher.network=unet", "teacher.encoder=resnet18", *RGB, *TWO]


def monai_bundle(folder: Path) -> list[str]:
    import_torchvision()
    pytest.importorskip("monai")
    (folder / "bundle.zip").write_bytes(zipped(bundle_files(weights_of(monai_unet()))))
    outputs = ["teacher.outputs=[]", "teacher.activation=softmax"]
    return [
        f"teacher.weights={folder}/bundle.zip",
        "teacher.normalise=clip",
        *outputs,
        *GREY[:1],
        "teacher.pixel_std=[1]",
    ]


def ensemble(folder: Path) -> list[str]:
    options = (
        f"{{kind: onnx, weights: {write_onnx(folder / 't.onnx')}, pixel_mean: [33], pixel_std: [50], input_size: 32}}"
    )
    return ["teacher.members.a.kind=embedded", f"teacher.members.b={options}"]


FILES: dict[str, Callable[[Path], list[str]]] = {
    "embedded": lambda folder: [],
    "embedded_chambers": lambda folder: [],
    "echonet_deeplabv3": deeplabv3,
    "onnx": onnx,
    "exported": exported,
    "torchvision": torchvision,
    "smp": smp,
    "monai_bundle": monai_bundle,
    "recorded": lambda folder: [f"teacher.weights={folder}"],
    "labels": lambda folder: [],
    "ensemble": ensemble,
}


def write_masks(config: RunConfig, folder: Path) -> None:
    """A row per clip of the plan."""
    source = build_source(config.source, config.window, seed=config.seed, case_frames=config.evaluation.frames)
    clips = [source.clip(index) for index in range(config.plan_slots)]
    rows = [
        StoredMask(clip.clip_id, "someone", ("LV",), (clip.video > 60)[:, None].astype(np.uint8) * 255)
        for clip in clips
    ]
    (folder / "part.parquet").write_bytes(encode_masks(rows))


def test_every_kind_is_here() -> None:
    assert set(FILES) >= set(KINDS) - {"remote"}  # a remote teacher has a server to talk to, and tests of its own


@pytest.mark.parametrize("kind", FILES)
def test_a_student_learns_from_every_kind_of_teacher(
    kind: str, tmp_path: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    folder = tmp_path / "teacher"
    folder.mkdir()
    options = [f"teacher.kind={kind}", *FILES[kind](folder), "train.steps=2", "train.checkpoint_every=2"]
    config = tiny_config(*options, "train.engine=plain", "evaluation.enabled=false")
    if kind == "recorded":
        write_masks(config, folder)
    summary = run_distillation(config, lambda line: None)
    assert summary["ledger"] == {"clips": 8, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    assert summary["students"]["a"]["steps"] == 2
    report = check_ledger(RunStorage(config.root), config.plan_slots)
    assert report.problems == []
    losses = read_rows(RunStorage(config.root)).training["loss"].to_pylist()
    assert len(losses) == 2
    assert all(0 < loss < 5 for loss in losses)  # a cross-entropy of soft masks and a network that knows nothing
