"""The few exchanges between workers that the loop needs, the same with one process and with many.

Texts travel as bytes in tensors, never as pickles.
"""

from __future__ import annotations

import torch
import torch.distributed as dist


def num_workers() -> int:
    """Processes in the group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def ensure_group(device: torch.device) -> None:
    """Make a group of this process alone where torch.distributed has none yet.

    Its store lives in memory: no port, no file, no environment variable.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def sum_over_workers(vector: torch.Tensor) -> list[float]:
    """Sum a small float64 vector over the workers: one all-reduce and one read."""
    if num_workers() > 1:
        vector = vector.to(device_of_group())
        dist.all_reduce(vector)
    return [float(value) for value in vector.tolist()]


def gather_texts(text: str) -> list[str]:
    """The texts of all workers, in the order of their ranks."""
    return [data.decode() for data in gather_bytes(text.encode())]


def gather_bytes(own: bytes) -> list[bytes]:
    """The bytes of all workers, in the order of their ranks."""
    if num_workers() == 1:
        return [own]
    device = device_of_group()
    data = torch.frombuffer(bytearray(own + b"\0"), dtype=torch.uint8).to(device)  # an empty tensor cannot travel
    length = torch.tensor([len(data)], device=device)
    sizes = [torch.zeros_like(length) for _ in range(num_workers())]
    dist.all_gather(sizes, length)
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(data)] = data
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[: int(size) - 1].cpu().numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]


def device_of_group() -> torch.device:
    """Where tensors must lie to be exchanged: nccl takes those of the GPU alone."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
