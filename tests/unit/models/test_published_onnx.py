"""The ready configs of published ONNX teachers, on small files with the published inputs and outputs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.core.errors import EchoDFKDError
from echodfkd.teaching.build import build_configured_teacher
from tests.helpers.onnx import convolutions
from tests.helpers.teachers import masks_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")


def write_network(place: Path, classes: int, gain: float = 8.0) -> np.ndarray:
    """One 1 x 1 convolution: (N, 1, 256, 256) -> logits of so many classes. Returns weight and bias, (classes, 2)."""
    slopes = np.linspace(-gain, gain, classes, dtype=np.float32)
    bias = np.linspace(0.2, -0.2, classes, dtype=np.float32)
    layer = (slopes.reshape(classes, 1, 1, 1), bias)
    place.write_bytes(convolutions([layer], shape=("n", 1, 256, 256), kernel=(1, 1)))
    return np.stack([slopes, bias], axis=1)


@pytest.mark.parametrize(
    ("name", "classes", "taught", "overrides"),
    [
        ("zeahub_teacher", 3, ("LV", "myocardium"), []),
        ("gillesvdv_teacher", 4, ("LV", "myocardium", "LA"), []),
        ("gillesvdv_teacher", 4, ("LV", "myocardium", "LA"), ["teacher.normalise=fixed", "teacher.pixel_std=[255]"]),
    ],
)
def test_a_published_file_teaches_its_classes_from_the_pixels_it_was_trained_on(
    name: str, classes: int, taught: tuple[str, ...], overrides: list[str], tmp_path: Path
) -> None:
    layer = write_network(tmp_path / "model.onnx", classes)
    config = load_config(f"configs/{name}.yaml", [f"teacher.weights={tmp_path / 'model.onnx'}", *overrides])
    assert config.taught_classes == taught
    teacher = build_configured_teacher(config.teacher, device="cpu")
    video = np.random.default_rng(0).integers(0, 256, (1, 2, 256, 256), dtype=np.uint8)
    found, _ = masks_of(teacher, video)
    assert teacher.class_names == ("background", *taught)

    pixels = video[0, 0].astype(np.float64)
    pixels = pixels / 255 if overrides else (pixels - pixels.mean()) / pixels.std()
    logits = layer[:, 0, None, None] * pixels + layer[:, 1, None, None]
    prob = np.exp(logits - logits.max(0)) / np.exp(logits - logits.max(0)).sum(0)
    assert np.abs(found[0, 0] - prob[1 : 1 + len(taught)]).max() < 1e-4  # float32


def test_a_file_of_other_channels_is_refused(tmp_path: Path) -> None:
    write_network(tmp_path / "model.onnx", 3)
    config = load_config("configs/gillesvdv_teacher.yaml", [f"teacher.weights={tmp_path / 'model.onnx'}"])
    with pytest.raises(EchoDFKDError, match=r"3.*4|4.*3"):
        build_configured_teacher(config.teacher, device="cpu")
