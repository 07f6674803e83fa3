"""The plain-torch DeepLabV3 against torchvision's, through a checkpoint file in EchoNet-Dynamic's format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.core.errors import InputError
from echodfkd.models.teachers import deeplabv3
from echodfkd.models.teachers.build import build_teacher
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from tests.helpers.teachers import lv_prob


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """torchvision's network as EchoNet-Dynamic builds it, with random weights and running statistics."""
    pytest.importorskip("PIL")
    import_torchvision()
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(0)
    network = deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=False)
    network.classifier[-1] = nn.Conv2d(256, 1, kernel_size=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("echonet") / "deeplabv3_resnet50_random.pt"
    state = nn.DataParallel(reference).state_dict()
    optimiser = {"state": {}, "param_groups": [{"lr": 1e-5, "momentum": 0.9, "params": [0]}]}
    torch.save(
        {"epoch": 49, "state_dict": state, "best_loss": np.float64(0.04), "loss": 0.05, "opt_dict": optimiser}, path
    )
    return str(path)


def test_equals_torchvision_on_a_batch(reference, checkpoint):
    network = deeplabv3.load_echonet_checkpoint(checkpoint)
    assert list(network.state_dict()) == list(reference.state_dict())
    assert len(network.state_dict()) == 362
    x = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(x)["out"]
        got = network(x)
    assert got.shape == (2, 1, 48, 40)
    assert expected.std() > 1e-3  # the comparison is not one of constants
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_teacher_repeats_grey_with_the_published_pixel_statistics(reference, checkpoint):
    teacher = build_teacher(kind="echonet_deeplabv3", weights=checkpoint, device="cpu", batch_frames=2)
    video = np.random.default_rng(0).integers(0, 256, (1, 3, 112, 112), dtype=np.uint8)
    prob = lv_prob(teacher, video)
    grey = torch.from_numpy(video[0, :1]).double()
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (deeplabv3.PIXEL_MEAN, deeplabv3.PIXEL_STD)
    )
    with torch.inference_mode():
        expected = reference(((grey - mean) / std)[None].float())["out"].sigmoid()[0, 0]
    assert prob.shape == (1, 3, 112, 112)
    np.testing.assert_allclose(prob[0, 0], expected.numpy(), atol=1e-5)
    assert teacher.teacher_id.startswith("echonet_deeplabv3-")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"teacher.weights: no file .*nowhere.pt"):
        deeplabv3.load_echonet_checkpoint(str(tmp_path / "nowhere.pt"))


def test_no_path_at_all_says_which_file_is_needed():
    with pytest.raises(InputError, match=r"teacher.weights: .*needs the path .*got an empty path"):
        build_teacher(kind="echonet_deeplabv3", weights="", device="cpu", batch_frames=1)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04broken"])
def test_something_else_is_not_a_checkpoint(tmp_path, content):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a torch checkpoint"):
        deeplabv3.load_echonet_checkpoint(str(path))


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], {"state_dict": {"a": 3}}])
def test_a_file_without_a_state_dict_is_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match="holds no `state_dict` of tensors"):
        deeplabv3.load_echonet_checkpoint(str(tmp_path / "other.pt"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("module.classifier.4.bias"), "it misses classifier.4.bias"),
        (lambda s: s.update({"module.aux.0.weight": torch.zeros(1)}), "it has an unknown aux.0.weight"),
        (
            lambda s: s.update({"module.classifier.4.weight": torch.zeros(21, 256, 1, 1)}),
            r"it has classifier.4.weight of shape \(21, 256, 1, 1\) instead of \(1, 256, 1, 1\)",
        ),
    ],
)
def test_another_architecture_names_its_first_difference(reference, tmp_path, change, words):
    content = {"state_dict": dict(nn.DataParallel(reference).state_dict())}
    change(content["state_dict"])
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=rf"teacher.weights: .*{words} \(1 of 362 entries differ\)"):
        deeplabv3.load_echonet_checkpoint(str(tmp_path / "other.pt"))


class _Payload:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


def test_a_pickled_payload_is_refused_and_not_run(tmp_path):
    target = tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": _Payload(str(target))}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"bad.pt holds pickled Python objects .*was not opened"):
        deeplabv3.load_echonet_checkpoint(str(tmp_path / "bad.pt"))
    assert not target.exists()
