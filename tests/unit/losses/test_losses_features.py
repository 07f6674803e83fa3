"""Attention transfer, and features matched by value and by direction: tables by hand, loops, and their own shards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from echodfkd.losses.features import FeatureAdapter, attention_transfer, feature_directions, feature_matching


def maps(*values: float) -> torch.Tensor:
    """One clip, one frame, one feature, one row."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 1, -1)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (maps(1, 2), maps(3, 6), 0.0),  # its length says nothing
        (maps(-1, 2), maps(1, -2), 0.0),  # nor does a sign
        (maps(1, 0), maps(0, 1), 2.0),
        (maps(1, 1), maps(1, 0), 2 - math.sqrt(2)),  # unit vectors 45 degrees apart
        (maps(0, 0), maps(0, 1), 1.0),  # no attention at all
        (maps(0, 0), maps(0, 0), 0.0),
        (torch.cat([maps(1, 0), maps(0, 1)], dim=2), maps(5, 5), 0.0),  # other numbers of features
        (maps(1, 1, 0, 0), maps(1, 0), 0.0),  # a finer map is averaged: squares 1, 1, 0, 0 to 1, 0
    ],
)
def test_attention_transfer_by_hand(student: torch.Tensor, teacher: torch.Tensor, expected: float) -> None:
    found = attention_transfer(student, teacher, torch.ones(1), total_weight=1.0)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def draw(features: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, features, size, size, generator=generator, dtype=torch.float64)


WEIGHT = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)


def test_attention_transfer_equals_a_loop_over_frames() -> None:
    student, teacher, total = draw(3, 4, 0), draw(5, 4, 1), 0.0
    for b, t in np.ndindex(3, 2):
        vectors = []
        for features in (student[b, t].numpy(), teacher[b, t].numpy()):
            energy = np.array([(features[:, i, j] ** 2).sum() for i, j in np.ndindex(4, 4)])
            vectors.append(energy / math.sqrt((energy**2).sum()))
        total += float(WEIGHT[b]) * ((vectors[0] - vectors[1]) ** 2).sum() / 2
    found = attention_transfer(student, teacher, WEIGHT, total_weight=3.5)
    assert float(found) == pytest.approx(total / 3.5, rel=1e-12)


def test_an_adapter_and_its_loss_equal_a_loop() -> None:
    """A 1 x 1 convolution is a matrix product at every place; the teacher's map is averaged over cells of 2 x 2."""
    torch.manual_seed(0)
    adapter = FeatureAdapter(3, 5).double()
    student, teacher, total = draw(3, 2, 0), draw(5, 4, 1), 0.0
    matrix, bias = adapter.project.weight.detach().numpy()[:, :, 0, 0], adapter.project.bias.detach().numpy()
    for b, t, i, j in np.ndindex(3, 2, 2, 2):
        adapted = matrix @ student[b, t, :, i, j].numpy() + bias
        wanted = teacher[b, t, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(1, 2)).numpy()
        total += float(WEIGHT[b]) * 0.5 * ((adapted - wanted) ** 2).mean() / (2 * 2 * 2)
    found = feature_matching(adapter(student), teacher, WEIGHT, total_weight=3.5).detach()
    assert float(found) == pytest.approx(total / 3.5, rel=1e-12)


def test_directions_equal_a_loop_over_cells() -> None:
    """1 - cosine, whatever the lengths: the teacher's are doubled, and a cell without features counts 1."""
    student, teacher, total = draw(5, 2, 0), draw(5, 4, 1), 0.0
    student[0, 0, :, 0, 0] = 0
    for b, t, i, j in np.ndindex(3, 2, 2, 2):
        wanted = teacher[b, t, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(1, 2)).numpy()
        own = student[b, t, :, i, j].numpy()
        length = np.linalg.norm(own) * np.linalg.norm(wanted)
        total += float(WEIGHT[b]) * (1 - own @ wanted / length if length else 1.0) / (2 * 2 * 2)
    found = feature_directions(student, 2 * teacher, WEIGHT, total_weight=3.5)
    assert float(found) == pytest.approx(total / 3.5, rel=1e-12)
    assert float(feature_directions(3 * teacher, teacher, WEIGHT, total_weight=3.5)) == pytest.approx(0, abs=1e-12)


def test_gradients_by_finite_differences() -> None:
    teacher = draw(5, 4, 1)
    leaf, adapted = draw(3, 2, 0).requires_grad_(True), draw(5, 2, 2).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda f: attention_transfer(f, teacher, WEIGHT, total_weight=3.5), (leaf,))
    for loss in (feature_matching, feature_directions):
        assert torch.autograd.gradcheck(lambda f, loss=loss: loss(f, teacher, WEIGHT, total_weight=3.5), (adapted,))


@pytest.mark.parametrize("loss", [attention_transfer, feature_matching, feature_directions])
def test_shards_add_up_and_half_precision_is_computed_in_float32(loss) -> None:
    student, teacher = draw(5, 2, 0), draw(5, 4, 1)
    whole = float(loss(student, teacher, WEIGHT, total_weight=3.5))
    parts = [
        float(loss(s, t, w, total_weight=3.5))
        for s, t, w in zip(student.split(1), teacher.split(1), WEIGHT.split(1), strict=True)
    ]
    assert math.fsum(parts) == pytest.approx(whole, rel=1e-12)
    rounded = student.to(torch.bfloat16)
    found = loss(rounded, teacher.to(torch.float16), WEIGHT.float(), total_weight=3.5)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(rounded.float(), teacher.to(torch.float16), WEIGHT.float(), total_weight=3.5))


def test_features_without_any_attention_have_finite_gradients() -> None:
    leaf = torch.zeros(3, 2, 5, 4, 4, requires_grad=True)
    attention_transfer(leaf, draw(5, 4, 1).float(), WEIGHT.float(), total_weight=3.5).backward()
    assert torch.isfinite(leaf.grad).all()


def test_shapes_that_do_not_fit_are_named() -> None:
    student, teacher = draw(3, 4, 0), draw(5, 4, 1)
    with pytest.raises(ValueError, match=r"must be \(B, T, F, h, w\) of the same clips and frames, and weight \(2,\)"):
        attention_transfer(student, teacher, WEIGHT[:2], total_weight=1.0)
    with pytest.raises(ValueError, match="of the same clips and frames"):
        attention_transfer(student[:, :1], teacher, WEIGHT, total_weight=1.0)
    for loss in (feature_matching, feature_directions):
        with pytest.raises(ValueError, match="must be as many"):
            loss(student, teacher, WEIGHT, total_weight=1.0)
