"""Input that is standardised by itself, as nnU-Net does: an exported U-Net against a slow reference in numpy."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.teachers.network_spec import NetworkLayout, NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.teaching.build import build_configured_teacher
from tests.helpers.onnx import unet
from tests.helpers.teachers import lv_prob, masks_of

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")

SIDE = 12
VIDEO = np.random.default_rng(0).integers(0, 256, (2, 3, SIDE, SIDE), dtype=np.uint8) // np.uint8(3)
VIDEO[0, 1] += 100
OPTIONS = {"pixel_mean": [0.0], "pixel_std": [1.0], "activation": "softmax", "outputs": ["background", "LV", "LA"]}
SIZED = {**OPTIONS, "input_size": SIDE}


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"down0": (4, 1, 3, 3), "down1": (6, 4, 3, 3), "up": (6, 4, 2, 2), "joined": (4, 8, 3, 3)}
    found = {name: rng.normal(0, 0.4, shape) for name, shape in {**shapes, "head": (3, 4, 1, 1)}.items()}
    found |= {f"{name}.bias": rng.normal(0, 0.1, values.shape[name == "up"]) for name, values in found.items()}
    for name in ("down0", "down1", "joined"):
        found |= {
            f"{name}.scale": rng.normal(1, 0.1, len(found[name])),
            f"{name}.shift": rng.normal(0, 0.1, len(found[name])),
        }
    return {name: values.astype(np.float32) for name, values in found.items()}


def conv(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int = 1) -> np.ndarray:
    """(C, H, W) by loops over the output."""
    pad = w.shape[-1] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    rows = (x.shape[1] - w.shape[2]) // stride + 1
    out = np.zeros((len(w), rows, rows))
    for row in range(rows):
        for at in range(rows):
            piece = x[:, row * stride : row * stride + w.shape[2], at * stride : at * stride + w.shape[3]]
            out[:, row, at] = (w * piece).sum((1, 2, 3)) + b
    return out


def norm_relu(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Instance norm and leaky ReLU."""
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    x = (x - mean) / np.sqrt(variance + 1e-5) * scale[:, None, None] + shift[:, None, None]
    return np.where(x > 0, x, 0.01 * x)


def slow_unet(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    def block(name: str, x: np.ndarray, stride: int) -> np.ndarray:
        return norm_relu(conv(x, w[name], w[f"{name}.bias"], stride), w[f"{name}.scale"], w[f"{name}.shift"])

    top = block("down0", x, 1)
    bottom = block("down1", top, 2)
    up = np.zeros((4, SIDE, SIDE))
    for row in range(SIDE):
        for at in range(SIDE):
            up[:, row, at] = bottom[:, row // 2, at // 2] @ w["up"][:, :, row % 2, at % 2] + w["up.bias"]
    logits = conv(block("joined", np.concatenate([up, top]), 1), w["head"], w["head.bias"])
    power = np.exp(logits - logits.max(0))
    return power / power.sum(0)


def z_score(image: np.ndarray) -> np.ndarray:
    """nnU-Net's ZScoreNormalization, without its mask: the mean off, then by the deviation or 1e-8."""
    image = image.astype(np.float64)
    return (image - image.mean()) / max(image.std(), 1e-8)


@needs_onnx
@pytest.mark.parametrize("normalise", ["frame", "clip"])
def test_an_exported_unet_gives_what_a_slow_reference_gives(tmp_path: Path, normalise: str) -> None:
    path = tmp_path / "nnunet.onnx"
    path.write_bytes(unet(weights(), shape=["n", 1, SIDE, SIDE]))
    config = TeacherConfig(kind="onnx", weights=str(path), normalise=normalise, batch_frames=4, **SIZED)
    teacher = build_configured_teacher(config, device="cpu")
    assert teacher.class_names == ("background", "LV", "LA")
    prob, _ = masks_of(teacher, VIDEO)
    for clip in range(2):
        whole = z_score(VIDEO[clip])
        for frame in range(3):
            x = z_score(VIDEO[clip, frame]) if normalise == "frame" else whole[frame]
            expected = slow_unet(x[None], weights())[1:]
            assert expected.std() > 0.05  # not a comparison of constants
            # float32 in onnxruntime against float64; one level of the stored mask would be 1/255
            np.testing.assert_allclose(prob[clip, frame], expected, atol=2e-5)
    fixed = TeacherConfig(kind="onnx", weights=str(path), **{**SIZED, "pixel_mean": [85.0], "pixel_std": [50.0]})
    assert np.abs(masks_of(build_configured_teacher(fixed, device="cpu"), VIDEO)[0] - prob).max() > 0.05


@needs_onnx
def test_a_fixed_patch_is_resized_to_after_the_frame_is_standardised(tmp_path: Path) -> None:
    """As nnU-Net has it: statistics of the frame's own pixels, then resampling. The network is known by now."""
    path = tmp_path / "nnunet.onnx"
    path.write_bytes(unet(weights(), shape=[1, 1, 8, 8]))
    config = TeacherConfig(kind="onnx", weights=str(path), normalise="frame", input_size=8, **OPTIONS)
    prob, _ = masks_of(build_configured_teacher(config, device="cpu"), VIDEO)
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    x = torch.from_numpy(np.stack([z_score(frame) for frame in VIDEO.reshape(-1, SIDE, SIDE)])[:, None]).float()
    x = nn.functional.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False, antialias=True)
    logits = torch.cat([torch.from_numpy(session.run(None, {"x": one[None].numpy()})[0]) for one in x])
    logits = nn.functional.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    expected = logits.softmax(1)[:, 1:].view(2, 3, 2, SIDE, SIDE).numpy()
    np.testing.assert_allclose(prob, expected, atol=1e-5)  # float32, statistics in another precision
    for options in ({"input_size": 0}, {"input_size": SIDE}):
        with pytest.raises(
            InputError, match=r"teacher.input_size: .* takes \[1, 1, 8, 8\] \(NCHW\), which needs H = 8"
        ):
            build_configured_teacher(
                TeacherConfig(kind="onnx", weights=str(path), **{**OPTIONS, **options}), device="cpu"
            )


def network_teacher(normalise: str, channels: int = 1, **more: Any) -> TorchTeacher:
    """Shows the input itself: 0.5 + x / 20."""

    class Show(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 + x[:, :1] / 20

    statistics = PixelStatistics((0.5,) * channels, (2.0,) * channels, normalise)
    return TorchTeacher(
        Show(),
        NetworkSpec("show", statistics, layout=NetworkLayout(activation="none", **more)),
        device="cpu",
        batch_frames=2,
    )


@pytest.mark.parametrize("normalise", ["frame", "clip"])
@pytest.mark.parametrize("more", [{}, {"fixed_batch": 5}])
def test_every_frame_gets_its_own_statistics_however_it_is_batched(normalise: str, more: dict[str, Any]) -> None:
    prob = lv_prob(network_teacher(normalise, **more), VIDEO)
    for clip in range(2):
        for frame in range(3):
            own = z_score(VIDEO[clip, frame]) if normalise == "frame" else z_score(VIDEO[clip])[frame]
            np.testing.assert_allclose(prob[clip, frame], 0.5 + (own - 0.5) / 2 / 20, atol=1e-6)  # float32


def test_a_frame_without_contrast_is_zero_and_not_infinite() -> None:
    prob = lv_prob(network_teacher("frame", channels=3), np.full((1, 2, 4, 4), 200, np.uint8))
    np.testing.assert_allclose(prob, 0.5 - 0.5 / 2 / 20, atol=1e-7)


def test_the_option_is_checked_and_older_runs_keep_their_hash() -> None:
    base = ["students.a.blocks=1", "teacher.kind=onnx", "teacher.weights=/t.onnx", "teacher.pixel_mean=[0]"]
    base += ["teacher.pixel_std=[1]"]
    plain = load_config(None, base)
    assert config_hash(load_config(None, [*base, "teacher.normalise=fixed"])) == config_hash(plain)
    assert config_hash(load_config(None, [*base, "teacher.normalise=clip"])) != config_hash(plain)
    with pytest.raises(ConfigError, match=r"teacher.normalise: got 'image', allowed are fixed, frame, clip"):
        load_config(None, [*base, "teacher.normalise=image"])
    with pytest.raises(ConfigError, match=r"teacher.normalise: has no effect if teacher.kind is embedded"):
        load_config(None, ["students.a.blocks=1", "teacher.normalise=frame"])
