"""The teacher benchmark compares equal masks: our path changes none of them."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.core.errors import ConfigError
from echodfkd.models.teachers.build import build_teacher, fold_echonet
from echodfkd.models.teachers.deeplabv3 import Conv, DeepLabV3, fold_norms
from echodfkd.models.teachers.torch_teacher import TorchTeacher, hash_weights
from tests.benchmarks import teacher_frames
from tests.benchmarks.authors_teacher import teach_clip, teach_clips
from tests.helpers.teachers import lv_prob

SIZE = 112


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 2, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture(scope="module")
def drawn() -> DeepLabV3:
    """Drawing 40 million weights takes seconds; tests take copies."""
    return teacher_frames.random_network(0)


@pytest.fixture
def network(drawn: DeepLabV3) -> DeepLabV3:
    return copy.deepcopy(drawn)


@pytest.fixture(scope="module")
def published(video: np.ndarray, drawn: DeepLabV3) -> np.ndarray:
    network = copy.deepcopy(drawn)
    return np.stack([teach_clip(network, clip, device="cpu") for clip in video])


def test_our_masks_are_those_of_the_published_loop(
    video: np.ndarray, published: np.ndarray, network: DeepLabV3
) -> None:
    """With folded norms, cropped kernels, channels last and passes over several clips."""
    assert published.std() > 0.2  # the comparison is not one of constants
    teacher = TorchTeacher(*fold_echonet(copy.deepcopy(network)), device="cpu", batch_frames=3)
    found = lv_prob(teacher, video)
    np.testing.assert_allclose(found, published, rtol=0, atol=1e-4)  # float32, some sixty layers deep
    assert np.abs(found - published).max() <= teacher_frames.SAME_MASK
    kept = list(teach_clips(network, video, device="cpu", records_graph=True))
    assert kept[0].dtype == np.uint8
    np.testing.assert_allclose(kept, np.floor(255 * published), rtol=0, atol=1)


def test_bfloat16_has_an_id_of_its_own_and_stays_near(
    video: np.ndarray, published: np.ndarray, network: DeepLabV3
) -> None:
    """8 bits of precision are 0.4 % of each value; over sixty layers that stays below a tenth."""
    hashed = hash_weights(network)
    teacher = TorchTeacher(*fold_echonet(network), device="cpu", batch_frames=8, precision="bf16")
    assert teacher.teacher_id == f"echonet_deeplabv3_bf16-{hashed}"
    apart = np.abs(lv_prob(teacher, video) - published)
    assert 0 < apart.mean() < 0.01
    assert apart.max() < 0.1


def test_folding_leaves_no_norm_and_the_same_function(network: DeepLabV3) -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(x)
        folded = fold_norms(network)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)  # sums in another order, logits of 2


@pytest.mark.parametrize(("size", "dilation"), [(14, 24), (14, 14), (15, 14), (14, 12)])
def test_a_kernel_that_sees_only_padding_is_cropped_exactly(size: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = Conv(4, 5, 3, padding=dilation, dilation=dilation)
    x = torch.randn(2, 4, size, size)
    torch.testing.assert_close(conv(x), nn.Conv2d.forward(conv, x), rtol=1e-5, atol=1e-6)  # zeros are not added


def test_padding_is_not_counted_as_work(network: DeepLabV3) -> None:
    """The two widest branches of the pyramid are 1 x 1 at 14 x 14: 8 of 9 taps of 2048 x 256 weights less, each."""
    all_taps = 0

    def count(module: nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
        nonlocal all_taps
        all_taps += module.weight.numel() * output.shape[-1] * output.shape[-2]

    for module in network.modules():
        if isinstance(module, Conv):
            module.register_forward_hook(count)
    found = teacher_frames.macs_per_frame(network, SIZE)
    assert all_taps - found == 2 * 8 * 2048 * 256 * 14 * 14


@pytest.mark.slow
def test_both_ways_are_timed_and_their_masks_compared(network: DeepLabV3) -> None:
    video = np.random.default_rng(1).integers(0, 256, (1, 1, SIZE, SIZE), dtype=np.uint8)
    rates, ratios = teacher_frames.compare(network, video, device="cpu", rounds=1)
    assert rates.keys() == {"as published", "per clip", "ours fp32", "ours bf16"}
    assert min(rates.values()) > 0
    assert ratios["ours bf16 / per clip"].low > 0
    apart = teacher_frames.masks_apart(network, video, "cpu")
    assert apart["fp32"] <= teacher_frames.SAME_MASK < 1
    assert apart["fp32"] < apart["bf16"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("teacher.precision=fp8", "teacher.precision: got 'fp8', allowed are fp32, bf16, fp16, auto"),
        ("teacher={kind: onnx, weights: x.onnx, precision: bf16}", "teacher.precision: has no effect if .* is onnx"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, ["students.a={blocks: 1}", override])


@pytest.mark.parametrize("kind", ["embedded", "embedded_chambers"])
def test_the_embedded_teachers_in_bfloat16(kind: str, tmp_path: Path) -> None:
    from echodfkd.sources.phantom.source import default_phantom

    clip = default_phantom(seed=1, num_frames=4, fps=32.0, size=56, case_frames=8).clip(0).video[None]
    plain, fast = (
        build_teacher(kind=kind, weights="", device="cpu", batch_frames=4, precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert fast.teacher_id == plain.teacher_id.replace(kind, f"{kind}_bf16", 1)
    apart = np.abs(lv_prob(fast, clip) - lv_prob(plain, clip))
    assert 0 < apart.mean() < 0.01  # on most pixels a level or two
