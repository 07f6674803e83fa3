"""Networks that do not give what the config says are refused when they are built; honest ones are taken."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.teachers.network_spec import NetworkLayout, NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.models.teachers.unet import PIXEL_MEAN, PIXEL_STD, load_embedded_teacher
from echodfkd.runtime.stream.builders import load_teacher
from echodfkd.teaching.build import build_configured_teacher
from echodfkd.teaching.network_probe import check_network, probe_frames
from tests.helpers.onnx import model, node, tensor, value_info
from tests.helpers.teachers import lv_prob

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")

Change = Callable[[torch.Tensor], torch.Tensor]
BOTH = ["background", "LV"]


class Shown(nn.Module):
    """Logits of the frames' grey levels, one channel for each pair (factor, shift), and a last step."""

    def __init__(self, *channels: tuple[float, float], last: Change = lambda x: x) -> None:
        super().__init__()
        self.channels, self.last = channels, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([factor * x + shift for factor, shift in self.channels], dim=1))


LV = (0.1, -13.0)
BACKGROUND = (-0.1, 13.0)


def check(network: nn.Module, outputs: list[str], activation: str, **layout: Any) -> None:
    spec = NetworkSpec(
        "shown",
        PixelStatistics((0.0,), (1.0,)),
        class_names=("background", *[name for name in outputs if name != "background"]),
        layout=NetworkLayout(activation=activation, num_channels=len(outputs), **layout),
    )
    check_network(TorchTeacher(network, spec, device="cpu", batch_frames=2), frames=3, size=20)


ONE, TWO = Shown(LV), Shown(BACKGROUND, LV)


def ended(network: Shown, last: Change) -> Shown:
    return Shown(*network.channels, last=last)


@pytest.mark.parametrize(
    ("network", "outputs", "activation", "words"),
    [
        (TWO, ["LV"], "sigmoid", r"has 1 names, but .* gives 2 channels; .* outputs: \[background, LV\] with activ"),
        (ONE, BOTH, "softmax", r"has 2 names, but .* gives 1 channels; expected one name, e.g. outputs: \[LV\]"),
        (Shown(*[LV] * 9), ["LV"], "sigmoid", r"gives 9 channels; name every channel in order"),
        (ended(ONE, torch.sigmoid), ["LV"], "sigmoid", r"values from \S+e-06 to 1 for .* ends in a sigmoid or softmax"),
        (ended(ONE, lambda x: x.sigmoid().half()), ["LV"], "sigmoid", "ends in a sigmoid or softmax already"),
        (ended(TWO, lambda x: x.softmax(1)), BOTH, "softmax", "ends in a sigmoid or softmax already"),
        (ended(TWO, torch.sigmoid), BOTH, "softmax", "ends in a sigmoid or softmax already"),
        (ended(TWO, lambda x: x.softmax(1)), BOTH, "sigmoid", "ends in a sigmoid or softmax already"),
        (ended(TWO, lambda x: x.log_softmax(1)), BOTH, "sigmoid", "logarithms of probabilities .* set it to softmax"),
        (ended(ONE, lambda x: 255 * x.sigmoid()), ["LV"], "sigmoid", "no logit is below 0"),
        (ended(ONE, torch.relu), ["LV"], "sigmoid", "no logit is below 0"),
        (ONE, ["LV"], "none", r"values from -13 to 12.5 .* expected probabilities of 0 .. 1; set it to sigmoid"),
        (ended(ONE, lambda x: 255 * x.sigmoid()), ["LV"], "none", r"to 255 .* expected probabilities of 0 .. 1"),
        (ended(TWO, lambda x: x.argmax(1, True).float()), ["LV"], "sigmoid", "gives only whole numbers, 0 to 1"),
        (ended(TWO, lambda x: 3 * (x > 0)[:, 1:].float()), ["LV"], "sigmoid", "gives only whole numbers, 0 to 3"),
        (ended(TWO, lambda x: x.argmax(1, keepdim=True)), ["LV"], "none", "gives int64, class numbers or a threshold"),
        (ended(ONE, lambda x: x > 0), ["LV"], "none", "gives bool, class numbers or a threshold"),
        (ended(ONE, lambda x: x / 0), ["LV"], "sigmoid", "values that are not finite"),
        (ended(TWO, lambda x: x.argmax(1)), ["LV"], "none", r"an output of shape \(2, 20, 20\) for 2 frames"),
    ],
)  # fmt: skip
def test_an_output_that_is_not_what_the_config_says_is_refused(
    network: nn.Module, outputs: list[str], activation: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        check(network, outputs, activation)


@pytest.mark.parametrize(
    ("network", "outputs", "activation"),
    [
        (ONE, ["LV"], "sigmoid"),
        (TWO, BOTH, "softmax"),
        (TWO, BOTH, "sigmoid"),
        (ended(TWO, lambda x: x.log_softmax(1)), BOTH, "softmax"),  # its softmax is the network's own
        (ended(ONE, torch.sigmoid), ["LV"], "none"),
        (ended(ONE, lambda x: (x > 0).float()), ["LV"], "none"),
        (ended(TWO, lambda x: x.softmax(1)), BOTH, "none"),
        (Shown((0.0, -3.2)), ["LV"], "sigmoid"),  # it finds nothing anywhere
        (Shown((0.0, 0.1), (0.0, 0.3)), BOTH, "softmax"),  # hardly trained
    ],
)
def test_honest_networks_are_taken(network: nn.Module, outputs: list[str], activation: str) -> None:
    check(network, outputs, activation)


@pytest.mark.parametrize(("axes", "window"), [("NCTHW", 0), ("NTCHW", 4)])
def test_networks_of_clips_are_shown_clips(axes: str, window: int) -> None:
    class Clips(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[2 if axes == "NCTHW" else 1] == (window or 3)
            return torch.cat([-0.1 * x, 0.1 * x], dim=1 if axes == "NCTHW" else 2)

    check(Clips(), BOTH, "softmax", axes=axes, window_frames=window, channels=(1,))
    with pytest.raises(InputError, match=r"has 1 names, but the network of .* gives 2 channels"):
        check(Clips(), ["LV"], "sigmoid", axes=axes, window_frames=window, channels=(0,))


@pytest.mark.parametrize("num_classes", [1, 5])
def test_the_shipped_networks_would_pass(num_classes: int) -> None:
    network = load_embedded_teacher(None, num_classes=num_classes)
    spec = NetworkSpec("u", PixelStatistics(PIXEL_MEAN, PIXEL_STD), class_names=("background", *"abcde"[:num_classes]))
    check_network(TorchTeacher(network, spec, device="cpu", batch_frames=8), frames=1, size=56)
    twice = TorchTeacher(nn.Sequential(network, nn.Sigmoid()), spec, device="cpu", batch_frames=8)
    with pytest.raises(InputError, match="ends in a sigmoid"):
        check_network(twice, frames=1, size=56)


def test_the_frames_hold_black_white_and_what_lies_between() -> None:
    frames = probe_frames(2, 32)
    assert (frames.shape, frames.dtype) == ((5, 2, 32, 32), np.uint8)
    assert frames[0].max() == 0
    assert frames[1].min() == 255
    assert all(20 < frame.std() < 100 for frame in frames[2:])


def onnx_file(path: Path, classes: int, last: str = "", outputs: int = 1) -> Path:
    """1 x 1 convolutions of the grey levels; only the last channel shows an LV."""
    weight, bias = np.zeros((classes, 1, 1, 1), np.float32), np.zeros(classes, np.float32)
    weight[-1], bias[-1] = LV
    nodes = [node("Conv", ["x", "w", "b"], "c", kernel_shape=[1, 1])]
    names = ["c"]
    if last:
        nodes.append(node(last, ["c"], "o"))
        names = ["o"]
    names += ["c"] * (outputs - 1)
    infos = [value_info(name, ["n", classes, "h", "w"]) for name in names]
    weights = [tensor("w", weight), tensor("b", bias)]
    path.write_bytes(model(nodes, weights, [value_info("x", ["n", 1, "h", "w"])], infos))
    return path


def build(kind: str, path: Path, **options: Any) -> TorchTeacher:
    pixels: dict[str, Any] = {"pixel_mean": [0.0], "pixel_std": [1.0], "batch_frames": 4}
    config = TeacherConfig(kind=kind, weights=str(path), **{**pixels, **options})
    return build_configured_teacher(config, device="cpu", window=WindowConfig(frames=2, size=16))


@needs_onnx
def test_an_onnx_file_is_held_against_its_names_and_its_activation(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (1, 2, 16, 16), dtype=np.uint8)
    two = onnx_file(tmp_path / "two.onnx", 2)
    with pytest.raises(InputError, match=r"has 1 names, but the network of onnx-.* gives 2 channels"):
        build("onnx", two)
    named = build("onnx", two, outputs=BOTH, activation="softmax")
    expected = 1 / (1 + np.exp(13 - 0.1 * video[0].astype(np.float64)))
    np.testing.assert_allclose(lv_prob(named, video)[0], expected, atol=1e-5)
    ended_in_one = onnx_file(tmp_path / "sig.onnx", 1, "Sigmoid")
    with pytest.raises(InputError, match=r"got sigmoid, but .* ends in a sigmoid or softmax already"):
        build("onnx", ended_in_one)
    np.testing.assert_allclose(lv_prob(build("onnx", ended_in_one, activation="none"), video)[0], expected, atol=1e-5)


@needs_onnx
def test_of_several_outputs_one_is_named(tmp_path: Path) -> None:
    deep = onnx_file(tmp_path / "deep.onnx", 1, "Sigmoid", outputs=2)
    with pytest.raises(InputError, match=r"teacher.output: got '', .*deep.onnx gives o \[.*\], c \[.*\]; name the one"):
        build("onnx", deep)
    assert build("onnx", deep, output="c").class_names == ("background", "LV")


class Several(nn.Module):
    """Deep supervision: coarse and fine maps, as a list or by name."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.names = names

    def forward(self, x: torch.Tensor) -> Any:
        maps = (0 * x - 3.5, 0.1 * x - 13)
        return dict(zip(self.names, maps, strict=True)) if self.names else maps


@pytest.mark.parametrize(
    ("names", "wanted", "words"),
    [
        ((), "1", r"got '', but the network gives 0 \[.*\], 1 \[.*\]; name the one that holds the masks"),
        (("coarse", "fine"), "fine", r"got '', but the network gives coarse \[.*\], fine \[.*\]; name the one"),
        (("aux", "out"), "", ""),
    ],
)
def test_of_several_outputs_of_an_exported_network_one_is_named(
    tmp_path: Path, names: tuple[str, ...], wanted: str, words: str
) -> None:
    path, sink = tmp_path / "t.pt2", io.BytesIO()
    dims = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    torch.export.save(torch.export.export(Several(names), (torch.zeros(2, 1, 16, 16),), dynamic_shapes=dims), sink)
    path.write_bytes(sink.getvalue())
    sha256 = hashlib.sha256(sink.getvalue()).hexdigest()
    if words:
        with pytest.raises(InputError, match=words):
            build("exported", path, sha256=sha256, input_size=16)
    teacher = build("exported", path, sha256=sha256, input_size=16, output=wanted)
    white = np.full((1, 1, 16, 16), 255, np.uint8)
    np.testing.assert_allclose(lv_prob(teacher, white), 1 / (1 + np.exp(-12.5)), atol=1e-5)


@needs_onnx
def test_a_run_shows_its_teacher_frames_of_its_own_size(tmp_path: Path) -> None:
    """A network of one size only, that its file does not declare."""
    weight = np.ones((1, 1, 1, 1), np.float32)
    tensors = [tensor("w", weight), tensor("s", np.full((1, 1, 32, 32), -9, np.float32))]
    nodes = [node("Conv", ["x", "w"], "c", kernel_shape=[1, 1]), node("Add", ["c", "s"], "o")]
    infos = [value_info("x", ["n", 1, "h", "w"])], [value_info("o", ["n", 1, "h", "w"])]
    (tmp_path / "t.onnx").write_bytes(model(nodes, tensors, *infos))
    given = [
        "students.a.blocks=1", "teacher.kind=onnx", f"teacher.weights={tmp_path}/t.onnx", "teacher.pixel_mean=[0]",
        "teacher.pixel_std=[1]",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"fails on an input of shape \(5, 1, 40, 40\).* window.frames, window.size"):
        load_teacher(load_config(None, [*given, "window.size=40"]), "cpu")
    assert load_teacher(load_config(None, [*given, "window.size=32"]), "cpu").teacher_id.startswith("onnx-")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["teacher.activation=softmax"],
            "got softmax with the one channel LV, of which it makes 1 everywhere",
        ),
        (["teacher.pixel_std=[0.229]"], r"teacher.pixel_std: got 0.229, expected at least 1, in grey levels 0..255"),
    ],
)
def test_options_that_no_network_is_meant_by_are_refused(options: list[str], words: str) -> None:
    given = ["students.a.blocks=1", "teacher.kind=onnx", "teacher.weights=x", "teacher.pixel_mean=[0.485]"]
    with pytest.raises(ConfigError, match=words):
        load_config(None, [*given, "teacher.pixel_std=[1]", *options])
