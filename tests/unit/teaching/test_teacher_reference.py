"""A teacher is held against its stored frame and mask before a run starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.core.errors import InputError
from echodfkd.models.teachers.network_spec import NetworkLayout, NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.runtime.stream.builders import load_teacher
from echodfkd.teaching.reference import SUFFIX, check_reference, encode_reference, make_reference
from jobs import teacher_reference
from tests.helpers.teachers import FloatTeacher

FRAME = np.random.default_rng(0).integers(0, 256, (1, 24, 24), dtype=np.uint8)


class Weighted(nn.Module):
    """Three channels that count differently, so that their order matters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([0.5, -0.2, 0.1]).view(1, 3, 1, 1) * torch.ones(1, 3, 3, 3) / 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def teacher(
    mean: tuple[float, ...] = (30.0, 60.0, 90.0), std: tuple[float, ...] = (20.0, 40.0, 60.0), **options: Any
) -> TorchTeacher:
    values = {"input_size": None, "layout": NetworkLayout(), **options}
    return TorchTeacher(
        Weighted(), NetworkSpec("t", PixelStatistics(mean, std), **values), device="cpu", batch_frames=8
    )


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """The author's own mask, from numpy alone."""
    x = np.stack([(FRAME[0].astype(float) - m) / s for m, s in zip((30, 60, 90), (20, 40, 60), strict=True)])
    padded = np.pad(np.tensordot([0.5, -0.2, 0.1], x, axes=1), 1)
    logits = sum(padded[i : i + 24, j : j + 24] for i in range(3) for j in range(3)) / 9
    path = tmp_path / "reference.safetensors"
    path.write_bytes(encode_reference(FRAME, (1 / (1 + np.exp(-logits)))[None, None], ("LV",)))
    return str(path)


def test_the_authors_own_mask_passes(stored: str) -> None:
    check_reference(teacher(), stored, tolerance=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        teacher(mean=(90.0, 60.0, 30.0), std=(60.0, 40.0, 20.0)),
        teacher(mean=(30 / 255, 60 / 255, 90 / 255), std=(20 / 255, 40 / 255, 60 / 255)),
        teacher(mean=(45.0, 60.0, 90.0)),
        teacher(input_size=20),
        teacher(layout=NetworkLayout(activation="softmax")),
    ],
    ids=["channels turned round", "statistics of 0..1", "one mean off by 15", "another size", "softmax"],
)
def test_a_teacher_that_is_set_up_wrongly_is_refused_in_one_sentence(stored: str, wrong: TorchTeacher) -> None:
    words = r"teacher.reference: the teacher t-.* does not give the mask stored in .*: LV differs by up to .*pixel_mean"
    with pytest.raises(InputError, match=words):
        check_reference(wrong, stored, tolerance=0.02)


def test_a_mask_that_is_not_finite_is_refused(stored: str) -> None:
    class Broken(FloatTeacher):
        teacher_id, class_names = "b", ("background", "LV")

        def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
            return np.full(video_NTHW.shape, np.nan, np.float32)

    with pytest.raises(InputError, match="cannot be compared: the teacher b gave a mask that is not finite"):
        check_reference(Broken(), stored, tolerance=1.0)


def test_other_classes_are_refused(stored: str) -> None:
    other = teacher()
    other.class_names = ("background", "LA")
    with pytest.raises(InputError, match=r"is for the classes LV, but the teacher .* gives LA"):
        check_reference(other, stored, tolerance=1.0)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"frame": FRAME, "prob": np.zeros((1, 2, 24, 24), np.float32)},
        {"frame": FRAME.astype(np.float32), "prob": np.zeros((1, 1, 24, 24), np.float32)},
        {"frame": FRAME, "prob": np.full((1, 1, 24, 24), np.nan, np.float32)},
    ],
)
def test_a_file_that_is_no_reference_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, tmp_path / "r.safetensors", {"classes": "LV"})
    with pytest.raises(InputError, match=r"r.safetensors holds .*; expected frame uint8 \[T, H, W\]"):
        check_reference(teacher(), str(tmp_path / "r.safetensors"), tolerance=1.0)
    (tmp_path / "r.safetensors").write_bytes(b"\x80\x05 no tensors")
    with pytest.raises(InputError, match=r"teacher.reference: .* cannot be read"):
        check_reference(teacher(), str(tmp_path / "r.safetensors"), tolerance=1.0)


def test_the_job_writes_what_later_runs_are_held_against(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "mine.safetensors")
    options = ["students.a.blocks=2", "window.size=32"]
    assert teacher_reference.main(["--out", out, *options]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["teacher"] == load_teacher(load_config(None, [*options, f"teacher.reference={out}"]), "cpu").teacher_id
    other = load_config(None, [*options, "teacher.kind=embedded_chambers", f"teacher.reference={out}"])
    with pytest.raises(InputError, match=r"is for the classes LV, but the teacher embedded_chambers-"):
        load_teacher(other, "cpu")
    assert teacher_reference.main(["--out", str(tmp_path / "no" / "folder"), *options]) == 2
    assert "--out: " in capsys.readouterr().err


def test_a_reference_beside_the_weights_is_found_by_itself(tmp_path: Path) -> None:
    from importlib import resources

    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(resources.files("echodfkd").joinpath("weights", "embedded_teacher.safetensors").read_bytes())
    config = load_config(None, ["students.a.blocks=2", f"teacher.weights={weights}"])
    good = load_teacher(config, "cpu")
    frame = FRAME[:, :16, :16]
    beside = tmp_path / f"mine.safetensors{SUFFIX}"
    beside.write_bytes(make_reference(good, frame))
    assert load_teacher(config, "cpu").teacher_id == good.teacher_id
    beside.write_bytes(encode_reference(frame, np.ones((1, 1, 16, 16), np.float32), ("LV",)))
    with pytest.raises(InputError, match="does not give the mask stored in"):
        load_teacher(config, "cpu")
