"""The recurrent cell against the frame-by-frame formulation, and what it keeps for its own backward pass."""

from __future__ import annotations

import pytest
import torch

from echodfkd.models.students import convlstm_cell
from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm_cell import RecurrentConv2d
from tests.benchmarks.authors_student import AuthorsRecurrentConv2d
from tests.benchmarks.student_step import SAME_LOSS, same_losses

HIDDEN = 2


def _pair(in_channels: int) -> tuple[RecurrentConv2d, AuthorsRecurrentConv2d]:
    """Ours and the reference with the same weights, float64."""
    torch.manual_seed(in_channels)
    ours = RecurrentConv2d(in_channels, HIDDEN).double()
    reference = AuthorsRecurrentConv2d(in_channels, HIDDEN).double()
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def _gradients(cell: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output and gradients of weight, bias and, where it wants one, the input."""
    h = cell(x)
    probe = torch.sin(torch.arange(h.numel(), dtype=torch.float64)).to(h.dtype).view(h.shape)
    leaves = [*cell.parameters(), *([x] if x.requires_grad else [])]
    return (h.detach(), *torch.autograd.grad((h * probe).sum(), leaves))


@pytest.mark.parametrize("as_on_gpu", [False, True])
@pytest.mark.parametrize(("in_channels", "frames", "clips_at_once"), [(1, 4, 1), (3, 4, 2), (3, 1, 3), (3, 2, 3)])
@pytest.mark.parametrize("wants_input", [False, True])
def test_equals_the_frame_by_frame_formulation(monkeypatch, as_on_gpu, in_channels, frames, clips_at_once, wants_input):
    """float64, 1e-12: only the order of sums differs. 3 clips in chunks of 1, 2 and 3; one frame; both schedules."""
    monkeypatch.setattr(convlstm_cell, "CHUNK_BYTES", clips_at_once * 4 * HIDDEN * 6 * 5 * 8)
    monkeypatch.setattr(convlstm_cell, "_is_cpu", lambda device: not as_on_gpu)
    ours, reference = _pair(in_channels)
    x = torch.randn(3, frames, in_channels, 6, 5, dtype=torch.float64, requires_grad=wants_input)
    for got, want in zip(_gradients(ours, x), _gradients(reference, x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_gradients_equal_finite_differences():
    ours, _ = _pair(2)
    x = torch.randn(1, 3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: torch.func.functional_call(ours, {"weight": weight, "bias": bias}, (x,)),
        (x, ours.weight, ours.bias),
    )


@pytest.mark.parametrize("bf16", [False, True])
def test_a_graph_may_be_walked_twice_and_its_tensors_may_live_elsewhere(bf16):
    """Packing hooks hand back copies; the second walk must find what the first one found."""
    cell, x = RecurrentConv2d(1, 3), torch.randn(2, 3, 1, 4, 4)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t),
    ):
        packed = cell(x)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        plain = cell(x)
    walks = [torch.autograd.grad(packed.float().sum(), cell.weight, retain_graph=True)[0] for _ in range(2)]
    walks.append(torch.autograd.grad(plain.float().sum(), cell.weight)[0])
    assert torch.equal(walks[0], walks[1])
    assert torch.equal(walks[0], walks[2])
    assert walks[0].abs().max() > 0


def test_second_derivatives_are_refused():
    cell = RecurrentConv2d(1, 2)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(cell(torch.randn(1, 2, 1, 4, 4)).sum(), cell.weight, create_graph=True)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_same_numbers(mode):
    ours, _ = _pair(3)
    x = torch.randn(2, 3, 3, 6, 5, dtype=torch.float64)
    with mode():
        assert torch.equal(ours(x), ours(x.clone()))
        quiet = ours(x)
    assert torch.equal(quiet, ours(x).detach())


def test_the_cell_state_is_not_rounded_to_bfloat16():
    """Increments near 0.008 at every frame: above 2 a bfloat16 sum would no longer take them up."""
    cell = RecurrentConv2d(1, 1)
    torch.nn.init.zeros_(cell.weight)
    with torch.no_grad():
        cell.bias.copy_(torch.tensor([-4.6, 12.0, 12.0, 1.0]))  # i = 0.00995, f = o = 1, g = 0.7616
    x = torch.zeros(1, 600, 1, 2, 2)
    with torch.no_grad():
        exact = cell(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = cell(x)
    assert rounded.dtype == torch.bfloat16
    assert exact[0, -1].min() > 0.999  # tanh of about 4.5
    torch.testing.assert_close(rounded.float(), exact, rtol=2**-7, atol=2**-7)


def test_bf16_gradients_stay_near_fp32():
    """Within 3 % of the largest entry: bfloat16 rounds each product's factors to 2^-9, over 5 frames of feedback."""
    torch.manual_seed(3)
    cell, x = RecurrentConv2d(2, 4), torch.randn(2, 5, 2, 8, 8, requires_grad=True)
    exact = _gradients(cell, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = _gradients(cell, x)
    assert all(g.dtype == torch.float32 for g in rounded[1:])
    for got, want in zip(rounded, exact, strict=True):
        assert (got.float() - want).abs().max() < 0.03 * want.abs().max()


def test_short_training_runs_agree():
    """float32 within rounding of the authors' losses, bfloat16 within the limit that the benchmark states."""
    difference = same_losses("cpu", steps=3)
    assert difference["fp32"] < 1e-5
    assert difference["bf16"] < SAME_LOSS["bf16"]


def test_a_student_in_bfloat16_trains():
    student = build_student(blocks=2, layers=1, filters=3, norm="batch").to(torch.bfloat16)
    logits = student(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)).mask_logits
    logits.float().square().mean().backward()
    assert logits.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def _kept_bytes(cell: torch.nn.Module, x: torch.Tensor) -> int:
    """Bytes of the distinct tensors that a forward pass saves."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        h = cell(x)
    h.float().sum().backward()
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(("device", "bf16"), [("meta", False), ("cpu", False), ("cpu", True)])
def test_keeps_input_output_gates_and_cell_state_alone(device, bf16):
    """In float32; under autocast output and gates take half the bytes. The meta device runs it too."""
    C, Z, pixels = 3, 4, 2 * 5 * 8 * 8
    cell, x = RecurrentConv2d(C, Z).to(device), torch.zeros(2, 5, C, 8, 8, device=device)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        kept = _kept_bytes(cell, x)
    half = 2 if bf16 else 4
    assert kept == pixels * (4 * C + half * Z + half * 4 * Z + 4 * Z) + cell.weight.numel() * 4
    reference = AuthorsRecurrentConv2d(C, Z).to(device)
    assert bf16 or kept < _kept_bytes(reference, x)
