"""Exchanges between the workers of the training loop; with one process they return their input."""

from __future__ import annotations

import torch
import torch.distributed as dist


def num_workers() -> int:
    """Processes in the group; 1 if there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def ensure_group(device: torch.device) -> None:
    """Make a group of this one process, unless torch.distributed has a group already.

    Its store lives in memory: no port, no file, no environment variable.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def sum_over_workers(vector: torch.Tensor) -> list[float]:
    """Sum a small float64 vector over the workers: one all-reduce and one read."""
    if num_workers() > 1:
        vector = vector.to(_group_device())
        dist.all_reduce(vector)
    return [float(value) for value in vector.tolist()]


def gather_texts(text: str) -> list[str]:
    """The texts of all workers, in the order of their ranks."""
    if num_workers() == 1:
        return [text]
    # As bytes in tensors: torch's own gather of objects would unpickle. An empty tensor cannot travel, hence the zero.
    device, data = _group_device(), text.encode() + b"\0"
    own = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
    length = torch.tensor([len(own)], device=device)
    sizes = [torch.zeros_like(length) for _ in range(num_workers())]
    dist.all_gather(sizes, length)
    padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8, device=device)
    padded[: len(own)] = own
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[: int(size) - 1].cpu().numpy().tobytes().decode() for part, size in zip(parts, sizes, strict=True)]


def _group_device() -> torch.device:
    """Device that exchanged tensors must be on: nccl takes only those of a GPU."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
