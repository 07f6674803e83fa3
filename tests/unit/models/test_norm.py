"""Synced BatchNorm: two processes with half a batch each equal one process with the whole batch."""

from __future__ import annotations

import os
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from echodfkd.models.students.norm import SyncedBatchNorm2d, build_norm


def _case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, nn.BatchNorm2d]:
    generator = torch.Generator().manual_seed(3)
    x = 5.0 + 2.0 * torch.randn(6, 4, 5, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(6, 4, 5, 3, generator=generator, dtype=torch.float64)
    layer = nn.BatchNorm2d(4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, -2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    return x.to(dtype), target.to(dtype), layer.to(dtype)


def _steps(layer: nn.Module, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two training steps' forward and backward; gradients of input and parameters of the last."""
    for _ in range(2):
        leaf = x.clone().requires_grad_(True)
        layer.zero_grad()
        y = layer(leaf)
        ((y - target) ** 2 * y).sum().backward()
    assert leaf.grad is not None
    grads = {f"grad_{name}": p.grad for name, p in layer.named_parameters()}
    return {"y": y.detach(), "grad_x": leaf.grad, **grads, **dict(layer.named_buffers())}


SPLITS = ((3, 3), (4, 2))


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    for sizes, dtype in product(SPLITS, (torch.float32, torch.float64)):
        x, target, reference = _case(dtype)
        layer = SyncedBatchNorm2d(4).to(dtype)
        layer.load_state_dict(reference.state_dict())
        part = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], sum(sizes))
        result = _steps(layer, x[part], target[part])
        for name in ("grad_weight", "grad_bias"):  # what an engine sums over processes
            dist.all_reduce(result[name])
        torch.save(result, f"{folder}/{sizes}-{dtype}-{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads can abort an orderly interpreter exit, long after the work is saved


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    """Outputs, buffers and gradients, with even and uneven shares: only the order of sums differs."""
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    for sizes, (dtype, tolerance) in product(SPLITS, ((torch.float32, 1e-5), (torch.float64, 1e-10))):
        expected = _steps(_case(dtype)[2], *_case(dtype)[:2])
        halves = [torch.load(tmp_path / f"{sizes}-{dtype}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        for name, value in expected.items():
            if name in ("y", "grad_x"):
                got = [torch.cat([half[name] for half in halves])]
            else:
                got = [half[name] for half in halves]
            scale = max(1.0, float(value.abs().max()))
            for one in got:
                torch.testing.assert_close(
                    one, value, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
                )


def test_one_process_is_torchs_layer_with_the_same_keys():
    x, target, reference = _case(torch.float64)
    layer = SyncedBatchNorm2d(4).double()
    layer.load_state_dict(reference.state_dict())
    expected, got = _steps(reference, x, target), _steps(layer, x, target)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def test_group_norm_takes_the_largest_divisor_up_to_eight():
    assert [build_norm("group", channels).num_groups for channels in (12, 24, 96, 5)] == [4, 8, 8, 1]


def test_unknown_norm_names_the_allowed_ones():
    with pytest.raises(ValueError, match=r"norm: got 'layer', allowed are batch, group"):
        build_norm("layer", 12)
