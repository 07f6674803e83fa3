"""Teachers of others out of their files: one small network as torch, ONNX and torch.export gives the same masks."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.teachers.network_spec import NetworkLayout, NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.teaching.build import build_configured_teacher
from tests.helpers.onnx import convolutions, external_tensor, model, node, value_info
from tests.helpers.teachers import lv_prob, masks_of

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")

MEAN, STD = [30.0, 35.0, 40.0], [50.0, 45.0, 40.0]
SIZE = 20
VIDEO = np.random.default_rng(0).integers(0, 256, (2, 5, 24, 16), dtype=np.uint8)


def build(kind: str, path: Path, **options: Any) -> TorchTeacher:
    pixels = {"pixel_mean": MEAN, "pixel_std": STD, "input_size": SIZE, "batch_frames": 4}
    config = TeacherConfig(kind=kind, weights=str(path), **{**pixels, **options})
    return build_configured_teacher(config, device="cpu")


class Frames(nn.Module):
    """Two 3 x 3 convolutions: RGB -> three channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


class Video(nn.Module):
    """A 3 x 3 x 3 convolution over time and space: grey (N, 1, T, H, W) -> (N, 1, T, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def write_onnx(path: Path, network: nn.Module, shape: list[int | str]) -> Path:
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in convs]
    path.write_bytes(convolutions(weights, shape=shape, kernel=convs[0].kernel_size))
    return path


def write_exported(path: Path, network: nn.Module, example: torch.Tensor, *, batch: bool = True) -> str:
    dims = {"x": {0: torch.export.Dim("batch", min=1, max=64)}} if batch else None
    sink = io.BytesIO()
    torch.export.save(torch.export.export(network.eval(), (example,), dynamic_shapes=dims), sink)
    path.write_bytes(sink.getvalue())
    return hashlib.sha256(sink.getvalue()).hexdigest()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("exported") / "teacher.pt2"
    return path, write_exported(path, Frames(), torch.zeros(2, 3, SIZE, SIZE))


def torch_version(network: nn.Module, **layout: Any) -> np.ndarray:
    """The masks that the files must give."""
    channels = layout.get("channels") or (0,)
    return masks_of(
        TorchTeacher(
            network,
            NetworkSpec(
                "t",
                PixelStatistics(tuple(MEAN), tuple(STD)),
                input_size=SIZE,
                class_names=("background", *("abc"[: len(channels)])),
                layout=NetworkLayout(**{"num_channels": 3, **layout}),
            ),
            device="cpu",
            batch_frames=100,
        ),
        VIDEO,
    )[0]


@pytest.mark.parametrize(
    ("options", "names", "channels"),
    [
        ({"outputs": ["LV", "LA", "RV"]}, ("LV", "LA", "RV"), (0, 1, 2)),
        (
            {"outputs": ["background", "left atrium", "left ventricle"], "activation": "softmax"}
            | {"classes": {"left ventricle": "LV", "left atrium": "LA"}},
            ("LA", "LV"),
            (1, 2),
        ),
        ({"outputs": ["background", "a", "b"], "activation": "softmax", "classes": {"b": "LV"}}, ("LV",), (2,)),
    ],
)
def test_an_exported_network_gives_the_masks_of_the_torch_one(
    exported: tuple[Path, str], options: dict[str, Any], names: tuple[str, ...], channels: tuple[int, ...]
) -> None:
    teacher = build("exported", exported[0], sha256=exported[1], **options)
    assert teacher.class_names == ("background", *names)
    expected = torch_version(Frames(), activation=options.get("activation", "sigmoid"), channels=channels)
    prob, _ = masks_of(teacher, VIDEO)
    assert prob.shape == (2, 5, len(names), 24, 16)
    assert expected.std() > 0.01  # not a comparison of constants
    np.testing.assert_allclose(prob, expected, atol=1e-5)  # float32, another order of sums


@needs_onnx
@pytest.mark.parametrize("batch", ["n", 3], ids=["any batch", "batches of 3 alone"])
def test_an_onnx_network_gives_the_masks_of_the_torch_one(tmp_path: Path, batch: int | str) -> None:
    path = write_onnx(tmp_path / "t.onnx", Frames(), [batch, 3, SIZE, SIZE])
    teacher = build("onnx", path, outputs=["LV", "x", "y"], classes={"LV": "LV"})
    expected = torch_version(Frames(), channels=(0,))
    np.testing.assert_allclose(masks_of(teacher, VIDEO)[0], expected, atol=1 / 255)  # one level of the stored mask
    np.testing.assert_allclose(masks_of(teacher, VIDEO)[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=needs_onnx), "exported"])
def test_a_video_network_gives_its_masks_over_windows_of_frames(tmp_path: Path, kind: str) -> None:
    """Windows of 2 over 5 frames: 0-1, 2-3, and 3-4 for the last one. A slow loop over them says what comes out."""
    network, length = Video(), 2
    path = tmp_path / "video"
    if kind == "onnx":
        write_onnx(path, network, ["n", 1, length, 24, 16])
        more: dict[str, Any] = {}
    else:
        more = {"sha256": write_exported(path, network, torch.zeros(2, 1, length, 24, 16))}
    options = {"input_size": 0, "pixel_mean": [20.0], "pixel_std": [60.0], "layout": "NCTHW", "window_frames": length}
    with pytest.raises(InputError, match=r"teacher.input_size: .*video takes \[any, 1, 2, 24, 16\] \(NCTHW\)"):
        build(kind, path, **options, **more)
    square = np.ascontiguousarray(VIDEO[..., :16, :])
    if kind == "onnx":
        write_onnx(path, network, ["n", 1, length, 16, 16])
    else:
        more = {"sha256": write_exported(path, network, torch.zeros(2, 1, length, 16, 16))}
    teacher = build(kind, path, **{**options, "input_size": 16}, **more)
    prob = lv_prob(teacher, square)
    for clip in range(2):
        for frames, wanted in (([0, 1], [0, 1]), ([2, 3], [2, 3]), ([3, 4], [4])):
            x = (torch.from_numpy(square[clip, frames]).float() - 20) / 60
            with torch.inference_mode():
                mask = network(x[None, None])[0, 0].sigmoid().numpy()
            for frame in wanted:
                np.testing.assert_allclose(prob[clip, frame], mask[frames.index(frame)], atol=1e-5)


@pytest.mark.parametrize("axes", ["NCTHW", "NTCHW"])
@pytest.mark.parametrize(("window", "frames"), [(0, 5), (5, 3), (3, 7), (7, 7)])
def test_windows_of_a_video_network_cover_every_frame_once(axes: str, window: int, frames: int) -> None:
    """A network that adds, to each frame, the mean of its window: which window a frame was in can be read off."""

    class WindowMean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            over = 2 if axes == "NCTHW" else 1
            return x + 1000 * x.mean(dim=over, keepdim=True)

    video = np.random.default_rng(1).integers(0, 256, (3, frames, 4, 4), dtype=np.uint8)
    teacher = TorchTeacher(
        WindowMean(),
        NetworkSpec(
            "w",
            PixelStatistics((0.0,), (255.0 * 1001,)),
            layout=NetworkLayout(axes=axes, window_frames=window, activation="none"),
        ),
        device="cpu",
        batch_frames=4,
    )
    prob = lv_prob(teacher, video)
    length = window or frames
    for clip in range(3):
        for frame in range(frames):
            start = min(frame // length * length, max(0, frames - length))
            seen = [min(start + step, frames - 1) for step in range(length)]
            wanted = (video[clip, frame] + 1000 * video[clip, seen].mean(0)) / 255 / 1001
            np.testing.assert_allclose(prob[clip, frame], wanted, atol=1e-5)


def test_an_exported_file_is_not_opened_without_its_sha256(exported: tuple[Path, str], tmp_path: Path) -> None:
    other = tmp_path / "other.pt2"
    other.write_bytes(exported[0].read_bytes() + b"x")
    with pytest.raises(InputError, match=r"other.pt2 has the sha256 [0-9a-f]{64}, but .* the file was not opened"):
        build("exported", other, sha256=exported[1])


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_payload_in_an_archive_does_not_run_unless_its_very_bytes_are_pinned(
    exported: tuple[Path, str], tmp_path: Path
) -> None:
    bad, mark = tmp_path / "bad.pt2", tmp_path / "mark"
    with zipfile.ZipFile(exported[0]) as good, zipfile.ZipFile(bad, "w") as other:
        for entry in good.namelist():
            is_pickle = "sample_inputs" in entry
            other.writestr(entry, pickle.dumps(Payload(mark)) if is_pickle else good.read(entry))
    for sha256 in ("", exported[1]):
        with pytest.raises(InputError, match="the file was not opened"):
            build("exported", bad, sha256=sha256)
    assert not mark.exists()
    with pytest.raises(InputError, match=r"is no archive that torch\.export"):
        build("exported", bad, sha256=hashlib.sha256(bad.read_bytes()).hexdigest())
    assert mark.exists()  # the payload would have: why the pin is asked for


def test_what_is_no_archive_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "t.pt2"
    for content in (b"", b"PK\x03\x04", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"t.pt2 is no archive that torch.export of torch"):
            build("exported", path, sha256=hashlib.sha256(content).hexdigest())


@needs_onnx
@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../weights.bin"])
def test_an_onnx_file_cannot_name_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.zeros(3, "<f4").tobytes())
    names = [value_info("x", ["n", 3, SIZE, SIZE])], [value_info("y", ["n", 3, SIZE, SIZE])]
    (tmp_path / "t.onnx").write_bytes(
        model([node("Add", ["x", "w"], "y")], [external_tensor("w", [3, 1, 1], location)], *names)
    )
    with pytest.raises(InputError, match=r"t.onnx is no ONNX model that onnxruntime .* \(with all weights in the one"):
        build("onnx", tmp_path / "t.onnx")


@needs_onnx
@pytest.mark.parametrize("content", [b"", b"not a model", bytes(100)])
def test_what_is_no_onnx_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"t.onnx is no ONNX model that onnxruntime"):
        build("onnx", tmp_path / "t.onnx")


def test_onnxruntime_that_is_not_installed_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "t.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"teacher.kind=onnx needs onnxruntime.*pip install 'echodfkd\[onnx\]'"):
        build("onnx", tmp_path / "t.onnx")


@needs_onnx
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pixel_mean": [30.0], "pixel_std": [50.0]}, r"teacher.pixel_mean: .*needs C = 3; the option stands for 1"),
        (
            {"input_size": 0},
            r"teacher.input_size: .*needs H = 20; the option stands for .*; set teacher.input_size=20",
        ),
        ({"layout": "NCTHW"}, r"teacher.layout: got NCTHW, but the input of .* is \[any, 3, 20, 20\]"),
        ({"output": "mask"}, r"teacher.output: got 'mask', .* gives logits \['n', 3, 20, 20\]; name the one"),
    ],
)
def test_options_that_do_not_fit_the_file_are_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    path = write_onnx(tmp_path / "t.onnx", Frames(), ["n", 3, SIZE, SIZE])
    with pytest.raises(InputError, match=words):
        build("onnx", path, **{"outputs": ["LV", "LA", "RV"], **options})


def test_the_id_follows_all_that_decides_the_masks(exported: tuple[Path, str]) -> None:
    def name(**options: Any) -> str:
        options = {"outputs": ["LV", "x", "y"], **options}
        return build("exported", exported[0], sha256=exported[1], **options).teacher_id

    assert name() == name(batch_frames=7)
    others = {name(), name(pixel_mean=[0.0] * 3), name(activation="softmax"), name(outputs=["x", "LV", "y"])}
    assert len(others) == 4


def torchvision_state(name: str, channels: int, *, aux: bool = False) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    pytest.importorskip("PIL")
    import_torchvision()
    from torchvision.models import get_model

    torch.manual_seed(0)
    more = {} if name.startswith("lraspp") else {"aux_loss": aux}
    network = get_model(name, weights=None, weights_backbone=None, num_classes=channels, **more).eval()
    return network, {key: value.contiguous() for key, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "aux"), [("lraspp_mobilenet_v3_large", False), ("fcn_resnet50", False), ("fcn_resnet50", True)]
)
def test_a_torchvision_network_is_torchvisions(tmp_path: Path, name: str, aux: bool) -> None:
    network, state = torchvision_state(name, 2, aux=aux)
    save_file(state, tmp_path / "t.safetensors")
    options = {"outputs": ["background", "LV"], "activation": "softmax", "input_size": 32}
    teacher = build("torchvision", tmp_path / "t.safetensors", network=name, **options)
    assert teacher.teacher_id.startswith(name)
    video = VIDEO[:1, :2, :16, :16]
    x = torch.from_numpy(video).view(2, 1, 16, 16).float()
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.inference_mode():
        x = nn.functional.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False, antialias=True)
        logits = nn.functional.interpolate(network(x)["out"], size=(16, 16), mode="bilinear", align_corners=False)
        expected = logits.softmax(1)[:, 1].numpy()
    np.testing.assert_allclose(lv_prob(teacher, video)[0], expected, atol=1e-5)


def test_torchvision_weights_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    _, state = torchvision_state("lraspp_mobilenet_v3_large", 2)
    path = tmp_path / "t.safetensors"
    save_file(state, path)
    name = "lraspp_mobilenet_v3_large"
    with pytest.raises(InputError, match=rf"is no {name} of 1 channels \(teacher.outputs\): 4 of .* tensors differ"):
        build("torchvision", path, network=name)
    with pytest.raises(ConfigError, match=r"teacher.network: got 'resnet50', torchvision has deeplabv3_"):
        build("torchvision", path, network="resnet50")
    path.write_bytes(b"\x80\x05junk")
    with pytest.raises(InputError, match="cannot be read as a safetensors file"):
        build("torchvision", path, network=name)
