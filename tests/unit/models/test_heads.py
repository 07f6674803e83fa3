"""Students with heads: what they wrap stays as it is, and what they add equals a slow reference."""

from typing import Any

import pytest
import torch
from torch import nn

from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm import ConvLSTMStudent, FrameLayer
from echodfkd.models.students.heads import MultiTaskStudent, add_heads
from echodfkd.models.students.output import StudentOutput

CHAMBERS = ["LV", "myocardium", "LA", "RV", "RA"]
B, T, SIZE = 2, 5, 16


def student(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_student(blocks=2, layers=1, filters=4, norm="group", **options)


def video() -> torch.Tensor:
    return torch.randint(0, 256, (B, T, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_without_heads_it_is_the_very_network() -> None:
    plain, asked = student(), student(classes=["LV"], tasks=[])
    assert type(asked) is type(plain) is ConvLSTMStudent
    assert list(asked.state_dict()) == list(plain.state_dict())
    output = asked(video())
    assert isinstance(output, StudentOutput)
    assert output.mask_logits.shape == (B, T, 1, SIZE, SIZE)
    assert output[1:] == (None, None, None)
    assert torch.equal(output.mask_logits, plain(video()).mask_logits)


@pytest.mark.parametrize(
    ("options", "masks", "phase", "ef"),
    [
        ({"classes": CHAMBERS}, 5, False, False),
        ({"classes": ["LV"], "tasks": ["phase"]}, 1, True, False),
        ({"classes": ["LA", "LV"], "tasks": ["ef"]}, 2, False, True),
        ({"classes": CHAMBERS, "tasks": ["ef", "phase"]}, 5, True, True),
    ],
)
def test_outputs_have_their_shapes(options: dict[str, Any], masks: int, phase: bool, ef: bool) -> None:
    output = student(**options)(video())
    assert isinstance(output, StudentOutput)
    assert output.mask_logits.shape == (B, T, masks, SIZE, SIZE)
    assert (output.phase_logits is not None, output.ef is not None) == (phase, ef)
    if output.phase_logits is not None:
        assert output.phase_logits.shape == (B, T)
    if output.ef is not None:
        assert output.ef.shape == (B,)
        assert ((output.ef > 0) & (output.ef < 1)).all()


def test_outputs_equal_a_slow_reference() -> None:
    """Means, deviations and products in plain Python over float64 features (1e-12: sums in another order)."""
    network = student(classes=CHAMBERS, tasks=["phase", "ef"]).double().eval()
    assert isinstance(network, MultiTaskStudent)
    with torch.no_grad():
        output = network(video())
        features = network.network.encode(video())
        masks = network.network.output_layer(network.network.decode(features))
        assert torch.equal(output.mask_logits.flatten(0, 1), masks)
        for b in range(B):
            pooled = [[float(channel.mean()) for channel in features[b, t]] for t in range(T)]
            for t in range(T):
                weight, bias = network.phase_head.weight[0].tolist(), float(network.phase_head.bias)
                wanted = sum(w * x for w, x in zip(weight, pooled[t], strict=True)) + bias
                assert float(output.phase_logits[b, t]) == pytest.approx(wanted, abs=1e-12)
            series = list(zip(*pooled, strict=True))
            means = [sum(values) / T for values in series]
            spreads = [
                (sum((x - m) ** 2 for x in values) / T + 1e-6) ** 0.5 for values, m in zip(series, means, strict=True)
            ]
            logit = float(network.ef_head.bias) + sum(
                w * x for w, x in zip(network.ef_head.weight[0].tolist(), means + spreads, strict=True)
            )
            assert float(output.ef[b]) == pytest.approx(1 / (1 + 2.718281828459045**-logit), abs=1e-12)


def test_each_class_has_its_own_logits_and_every_parameter_a_gradient() -> None:
    network = student(classes=CHAMBERS, tasks=["phase", "ef"])
    output = network(video())
    assert len({round(float(output.mask_logits[:, :, c].detach().sum()), 4) for c in range(5)}) == 5
    (output.mask_logits.sum() + output.phase_logits.sum() + output.ef.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_still_video_gives_finite_gradients() -> None:
    """Where the heart stands still the deviation over time is 0, whose root has no slope of its own."""

    class Still(Tupled):
        def encode(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            skip, deepest = super().encode(video)
            return skip, deepest * 0 + self.conv.weight.sum()

    network = MultiTaskStudent(Still(), num_classes=1, tasks=["ef"])
    network(video()).ef.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


class Tupled(nn.Module):
    """The contract of a network with skip connections: a tuple of features, the deepest last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.output_layer = FrameLayer(nn.Conv2d(3, 1, 1))

    def fit(self, video: torch.Tensor) -> torch.Tensor:
        return video

    def encode(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = self.conv(video.flatten(0, 1).unsqueeze(1).float() / 255)
        skip = frames.unflatten(0, video.shape[:2])
        return skip, torch.cat([skip, skip], dim=2)[:, :, :, ::2, ::2]

    def decode(self, encoded: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return encoded[0].flatten(0, 1)


def test_networks_with_skip_connections_are_wrapped_likewise() -> None:
    network = add_heads(Tupled(), classes=["LV", "LA"], tasks=["phase"])
    assert network.training
    output = network(video())
    assert output.mask_logits.shape == (B, T, 2, SIZE, SIZE)
    assert output.phase_logits.shape == (B, T)
    assert network.phase_head.in_features == 6


def test_building_draws_no_random_number_for_counting_features() -> None:
    """The wrapped network starts from the weights that it would have alone."""
    alone, wrapped = student(), student(classes=CHAMBERS, tasks=["phase"])
    own = dict(alone.state_dict())
    for name, value in wrapped.network.state_dict().items():
        if not name.startswith("output_layer"):
            assert torch.equal(value, own[name]), name


def test_unusable_video_is_named() -> None:
    network = student(classes=CHAMBERS)
    with pytest.raises(ValueError, match=r"shape \(B, T, H, W\), got \(2, 5, 1, 16, 16\)"):
        network(video().unsqueeze(2))
    with pytest.raises(ValueError, match=r"frames of 16 x 15 pixels do not fit this student"):
        network(video()[..., :15])


def test_outputs_are_cast_whole() -> None:
    half = StudentOutput(torch.ones(1, dtype=torch.bfloat16), None, torch.ones(1, dtype=torch.bfloat16))
    cast = half.to_float32()
    assert isinstance(cast, StudentOutput)
    assert (cast.mask_logits.dtype, cast.phase_logits, cast.ef.dtype) == (torch.float32, None, torch.float32)
