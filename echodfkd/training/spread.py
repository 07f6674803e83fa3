"""Students spread over the workers: each trains its own on the whole batch (train.placement: spread).

The workers exchange their micro-batches instead of gradients. A round's micro-batches are joined in the order of
the ranks before the forward pass, so that a student sees the very batch that one worker alone would give it: the
result is bit for bit that of one worker, and that of replicated students but for the order in which their
sums run (BatchNorm's statistics are then those of one process, where replicas merge their parts).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from echodfkd.core.records import DistillationBatch
from echodfkd.models.students.norm import SyncedBatchNorm2d
from echodfkd.storage.checkpoints import StudentState, pack_state, unpack_state
from echodfkd.training.collectives import device_of_group, gather_bytes, num_workers
from echodfkd.training.student_costs import StudentCost


def assign_students(costs: Mapping[str, StudentCost], workers: int) -> dict[str, int]:
    """Which rank trains which student, a function of the costs alone.

    A step lasts as long as the slowest worker: the longest job goes first, to the worker with the least work so
    far (Graham 1969), counted in multiply-accumulates. No worker stays empty while there are students.
    """
    load = [0] * workers
    owners: dict[str, int] = {}
    for name in sorted(costs, key=lambda name: (-costs[name].macs, name)):
        rank = load.index(min(load))
        owners[name] = rank
        load[rank] += max(1, costs[name].macs)
    return {name: owners[name] for name in costs}


def own_group() -> dist.ProcessGroup | None:
    """A group of this process alone, for layers that must not exchange. Every worker must call it, once."""
    if num_workers() == 1:
        return None
    group, _ = dist.new_subgroups(group_size=1)
    return group


def exchange_within(module: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Let a student's BatchNorm layers exchange statistics within this group; None is all workers."""
    for layer in module.modules():
        if isinstance(layer, SyncedBatchNorm2d):
            layer.process_group = group


def join_rounds(rounds: Sequence[DistillationBatch]) -> list[DistillationBatch]:
    """The rounds with the micro-batches of all workers joined, in the order of the ranks.

    Every worker must call it with as many rounds of the same shapes. Texts and bookkeeping stay those of this
    worker: they are for its ledger alone.
    """
    if num_workers() == 1:
        return list(rounds)
    return [_join(batch) for batch in rounds]


def _join(batch: DistillationBatch) -> DistillationBatch:
    arrays = {
        field.name: np.ascontiguousarray(value)
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), np.ndarray)
    }
    parts = gather_bytes(b"".join(array.tobytes() for array in arrays.values()))
    joined = {}
    offset = 0
    for name, array in arrays.items():
        pieces = [np.frombuffer(part, array.dtype, array.size, offset).reshape(array.shape) for part in parts]
        joined[name] = np.concatenate(pieces)
        offset += array.nbytes
    return dataclasses.replace(batch, **joined)  # type: ignore[arg-type]


def collect_states(own: Mapping[str, StudentState], owners: Mapping[str, int], rank: int) -> dict[str, StudentState]:
    """Every student's state on rank 0, in the order of ``owners``; its own elsewhere. Every worker must call it."""
    states = {}
    for name, owner in owners.items():
        if owner == rank and rank != 0:
            _send(save_safetensors(pack_state(own[name])))
        if owner == rank:
            states[name] = own[name]
        elif rank == 0:
            states[name] = unpack_state(load_safetensors(_receive(owner)), name)
    return states


def _send(data: bytes) -> None:
    device = device_of_group()
    dist.send(torch.tensor([len(data)], device=device), dst=0)
    dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device), dst=0)


def _receive(source: int) -> bytes:
    device = device_of_group()
    size = torch.zeros(1, dtype=torch.int64, device=device)
    dist.recv(size, src=source)
    data = torch.zeros(int(size), dtype=torch.uint8, device=device)
    dist.recv(data, src=source)
    return data.cpu().numpy().tobytes()
