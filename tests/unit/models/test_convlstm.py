"""The students against an explicit step-by-step loop, and against the published parameter counts and costs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from echodfkd.models.students.build import STUDENT_INPUT_MEAN, STUDENT_INPUT_STD, build_student
from echodfkd.models.students.convlstm import count_parameters
from tests.helpers.costs import authors_macs_per_frame

PUBLISHED = {  # (k, n): parameters, GMAC per 112 x 112 frame
    (1, 1): (5_701, 0.071), (1, 2): (16_141, 0.201), (1, 3): (26_581, 0.331), (1, 4): (37_021, 0.461),
    (2, 1): (39_577, 0.201), (2, 2): (91_633, 0.461), (2, 3): (143_689, 0.721), (2, 4): (195_745, 0.981),
    (3, 1): (174_721, 0.331), (3, 2): (392_953, 0.721), (3, 3): (611_185, 1.111), (3, 4): (829_417, 1.501),
    (4, 1): (714_577, 0.461), (4, 2): (1_596_937, 0.981), (4, 3): (2_479_297, 1.501), (4, 4): (3_361_657, 2.021),
}  # fmt: skip
"""The authors' family with 12 filters: parameters and cost of their published networks, rounded to 0.001 GMAC."""


def _batch_norm(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Batch statistics over clips, frames and pixels, written out."""
    mean = x.mean(dim=(0, 1, 3, 4), keepdim=True)
    var = ((x - mean) ** 2).mean(dim=(0, 1, 3, 4), keepdim=True)
    shape = (1, 1, -1, 1, 1)
    return (x - mean) / (var + 1e-5).sqrt() * weights[f"{name}.weight"].view(shape) + weights[f"{name}.bias"].view(
        shape
    )


def _cell_loop(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    B, T, _, H, W = x.shape
    width = weight.shape[0] // 4
    h = c = torch.zeros(B, width, H, W, dtype=x.dtype)
    out = []
    for t in range(T):
        gates = F.conv2d(torch.cat([x[:, t], h], dim=1), weight, bias, padding=1)
        i, f, o, g = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return torch.stack(out, dim=1)


def _student_loop(video: torch.Tensor, weights: dict[str, torch.Tensor], blocks: int, layers: int) -> torch.Tensor:
    """The whole network from its state dict alone, a frame at a time."""
    x = ((video - STUDENT_INPUT_MEAN) / STUDENT_INPUT_STD)[:, :, None]
    for b in range(blocks):
        if b:
            x = torch.stack([F.max_pool2d(frame, 2) for frame in x.unbind(1)], dim=1)
        for j in range(layers):
            name = f"conv_lstm_blocks.{b}.conv_lstm_layers"
            cell = f"{name}.{2 * j}.cell.conv"
            x = _cell_loop(x, weights[f"{cell}.weight"], weights[f"{cell}.bias"])
            x = _batch_norm(x, weights, f"{name}.{2 * j + 1}.layer")
    for u in range(blocks - 1):
        name = f"conv_lstm_upsampling.{u}.conv_lstm_layers"
        conv = weights[f"{name}.1.layer.weight"], weights[f"{name}.1.layer.bias"]
        bigger = [frame.repeat_interleave(2, 2).repeat_interleave(2, 3) for frame in x.unbind(1)]
        x = torch.stack([F.conv2d(frame, *conv, padding=1) for frame in bigger], dim=1)
        x = _batch_norm(x, weights, f"{name}.2.layer")
    head = weights["output_layer.layer.weight"], weights["output_layer.layer.bias"]
    return torch.stack([F.conv2d(frame, *head)[:, 0] for frame in x.unbind(1)], dim=1)


@pytest.mark.parametrize(("blocks", "layers"), [(1, 2), (2, 1), (3, 2)])
def test_equals_a_step_by_step_loop_with_gradients(blocks, layers):
    """float64, 1e-10: only the order of sums differs."""
    torch.manual_seed(blocks)
    student = build_student(blocks=blocks, layers=layers, filters=3, norm="batch").double().train()
    video = torch.rand(2, 4, 8, 12, dtype=torch.float64).mul(255).requires_grad_(True)
    probe = torch.randn(2, 4, 8, 12, dtype=torch.float64)
    names, leaves = zip(*student.named_parameters(), strict=True)
    logits = student(video).mask_logits[:, :, 0]
    grads = torch.autograd.grad((logits * probe).sum(), [video, *leaves])
    weights = dict(zip(names, leaves, strict=True))
    expected = _student_loop(video, weights, blocks, layers)
    expected_grads = torch.autograd.grad((expected * probe).sum(), [video, *leaves])
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    for got, want in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kn", PUBLISHED)
def test_parameters_and_cost_of_the_published_family(kn):
    parameters, gmac = PUBLISHED[kn]
    with torch.device("meta"):
        student = build_student(blocks=kn[0], layers=kn[1], filters=12, norm="batch")
    assert count_parameters(student) == parameters
    assert abs(authors_macs_per_frame(*kn, 12, 112) / 1e9 - gmac) < 6e-4


def test_macs_equal_what_the_convolutions_really_do():
    """Counted by hooks on a run of one frame, plus the recurrent half that the first frame skips."""
    size, seen = 16, []
    student = build_student(blocks=3, layers=2, filters=4, norm="group").eval()

    def count(module, inputs, output):
        pixels = output.shape[-1] * output.shape[-2]
        seen.append(module.weight.numel() * pixels)

    for module in student.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    student(torch.zeros(1, 1, size, size))
    assert sum(seen) == authors_macs_per_frame(3, 2, 4, size)


def test_uint8_and_float_give_the_same_logits_and_causality_holds():
    torch.manual_seed(0)
    student = build_student(blocks=2, layers=1, filters=4, norm="batch").eval()
    video = torch.randint(0, 256, (1, 6, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        logits = student(video).mask_logits
        assert torch.equal(logits, student(video.float()).mask_logits)
        torch.testing.assert_close(student(video[:, :4]).mask_logits, logits[:, :4])
        changed = video.clone()
        changed[:, 0] = 255 - changed[:, 0]
        assert (student(changed).mask_logits[:, 5] - logits[:, 5]).abs().max() > 1e-5  # the past is remembered


@pytest.mark.parametrize(("size", "words"), [((9, 8), "frames of 9 x 8 pixels"), ((8, 10), "multiples of 4")])
def test_sizes_that_do_not_divide_are_named(size, words):
    student = build_student(blocks=3, layers=1, filters=2, norm="batch")
    with pytest.raises(ValueError, match=words):
        student(torch.zeros(1, 2, *size))


def test_a_wrong_rank_is_named():
    student = build_student(blocks=1, layers=1, filters=2, norm="batch")
    with pytest.raises(ValueError, match=r"shape \(B, T, H, W\), got \(2, 8, 8\)"):
        student(torch.zeros(2, 8, 8))
