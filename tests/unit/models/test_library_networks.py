"""Networks of segmentation-models-pytorch: the masks are the library's, and only names that it registers are taken."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.teaching.build import build_configured_teacher
from tests.helpers.teachers import lv_prob

import_torchvision()
smp = pytest.importorskip("segmentation_models_pytorch")

MEAN, STD = [30.0, 35.0, 40.0], [50.0, 45.0, 40.0]
VIDEO = np.random.default_rng(0).integers(0, 256, (1, 2, 64, 64), dtype=np.uint8)


def build(path: Path, network: str, encoder: str, **options: Any) -> TorchTeacher:
    given = {"pixel_mean": MEAN, "pixel_std": STD, "activation": "softmax", "outputs": ["background", "LV"]}
    config = TeacherConfig(kind="smp", weights=str(path), network=network, encoder=encoder, **{**given, **options})
    return build_configured_teacher(config, device="cpu", window=WindowConfig(size=64))


def library_network(network: str, encoder: str) -> nn.Module:
    torch.manual_seed(0)
    return smp.create_model(network, encoder, encoder_weights=None, in_channels=3, classes=2).eval()


def write(path: Path, network: nn.Module) -> Path:
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    ("network", "encoder"),
    [("unet", "resnet18"), ("fpn", "mit_b0"), ("unet", "tu-convnext_atto")],
)
def test_a_network_of_the_library_gives_the_librarys_masks(tmp_path: Path, network: str, encoder: str) -> None:
    """mit_b0 reads its drop rates as numbers while it is built, which the meta device cannot give."""
    library = library_network(network, encoder)
    before = torch.random.get_rng_state()
    teacher = build(write(tmp_path / "t.safetensors", library), network, encoder)
    assert torch.equal(torch.random.get_rng_state(), before)  # opening a teacher draws nothing
    assert teacher.teacher_id.startswith(f"{network}-")
    x = (torch.from_numpy(VIDEO).view(2, 1, 64, 64).float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    with torch.inference_mode():
        expected = library(x).softmax(1)[:, 1].numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(lv_prob(teacher, VIDEO)[0], expected, atol=2e-5)  # channels last: sums in another order


def test_constants_that_are_not_stored_are_computed(tmp_path: Path) -> None:
    """A buffer outside of the state dictionary would be left without values by a network built on the meta device."""
    from echodfkd.models.teachers.library_networks import LibraryNetwork

    class Ramp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)
            self.register_buffer("ramp", torch.arange(4.0), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.ramp

    own = Ramp()
    found = LibraryNetwork(Ramp, own.state_dict(), where="f", what="ramp", weights_hash="0")
    x = torch.randn(1, 1, 4, 4)
    with torch.inference_mode():
        assert torch.equal(found(x), own(x))


@pytest.mark.parametrize(
    ("network", "encoder", "error", "words"),
    [
        ("resnet", "resnet18", ConfigError, r"teacher.network: got 'resnet', segmentation-models-pytorch has unet, un"),
        ("unet", "resnet19", ConfigError, r"teacher.encoder: got 'resnet19', segmentation-models-pytorch has resnet18"),
        ("unet", "tu-hf-hub:someone/net", ConfigError, r"teacher.encoder: got 'tu-hf-hub:someone/net'"),
        ("dpt", "resnet18", InputError, r"dpt with resnet18 of 3 input .* cannot be built"),
        ("fpn", "resnet18", InputError, r"is no fpn with resnet18 of 3 input and 2 output channels .* tensors differ"),
    ],
)
def test_what_the_library_does_not_have_is_one_sentence(
    tmp_path: Path, network: str, encoder: str, error: type[Exception], words: str
) -> None:
    path = write(tmp_path / "t.safetensors", library_network("unet", "resnet18"))
    with pytest.raises(error, match=words):
        build(path, network, encoder)


def test_weights_that_are_none_or_of_other_channels_are_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "t.safetensors", library_network("unet", "resnet18"))
    with pytest.raises(
        InputError, match=r"of 3 input and 3 output channels \(teacher.outputs\): 2 of \d+ tensors differ"
    ):
        build(path, "unet", "resnet18", outputs=["background", "LV", "LA"])
    with pytest.raises(InputError, match=r"of 1 input and 2 output channels .*: 1 of \d+ tensors differ"):
        build(path, "unet", "resnet18", pixel_mean=[1.0], pixel_std=[1.0])
    path.write_bytes(b"\x80\x05junk")
    with pytest.raises(InputError, match="cannot be read as a safetensors file"):
        build(path, "unet", "resnet18")


def test_the_library_that_is_not_installed_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    (tmp_path / "t").write_bytes(b"")
    with pytest.raises(InputError, match=r"teacher.kind=smp needs segmentation-models-pytorch.*'echodfkd\[smp\]'"):
        build(tmp_path / "t", "unet", "resnet18")


def test_the_config_asks_for_architecture_and_encoder() -> None:
    base = ["students.a.blocks=1", "teacher.kind=smp", "teacher.weights=/w", "teacher.pixel_mean=[0]"]
    base += ["teacher.pixel_std=[1]", "teacher.network=unet", "teacher.encoder=resnet18"]
    assert load_config(None, base).teacher.encoder == "resnet18"
    for option, example in (("network", "unet"), ("encoder", "resnet34")):
        with pytest.raises(ConfigError, match=rf"teacher.{option}: empty, but teacher.kind is smp; e.g. {example}"):
            load_config(None, [*base, f"teacher.{option}=''"])
    with pytest.raises(ConfigError, match=r"teacher.encoder: has no effect if teacher.kind is torchvision"):
        load_config(None, [*base, "teacher.kind=torchvision"])
