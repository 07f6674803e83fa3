"""Timing: clocks, paired comparison, and the rates that the machine reaches at best."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from unittest.mock import patch

import torch

Report = Callable[[str], None]
"""Takes one line of a case's table."""

Works = Mapping[str, Callable[[], tuple[float, ...]]]
"""The works to compare, by name; each runs once and returns the seconds it took."""


def best_time(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of three runs, after one warm-up run."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


class Stopwatch:
    """Measures time on a device: CUDA events on a GPU, the wall clock on a CPU."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device != "cpu"

    def mark(self) -> torch.cuda.Event | float:
        """A point in time; on a GPU, the moment at which all work queued so far is done."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
        """Seconds from ``start`` to ``end``. Waits for the device."""
        if isinstance(start, float) or isinstance(end, float):
            assert isinstance(start, float)
            assert isinstance(end, float)
            return end - start
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000.0


@dataclass(frozen=True)
class Ratio:
    """Speed-up of one piece of work over another, from paired rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Median [smallest, largest]."""
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"

    @classmethod
    def of(cls, slow: list[float], fast: list[float]) -> Ratio:
        """Divide the seconds of two works, round by round."""
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))


def interleave(works: Works, rounds: int) -> dict[str, list[tuple[float, ...]]]:
    """Run all works once to warm up, then ``rounds`` times in turn, in reverse order every other round.

    A disturbance of the machine thus hits all of them alike, and none always runs after the same other.
    """
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in works}
    for work in works.values():
        work()
    for turn in range(rounds):
        for name in list(works) if turn % 2 == 0 else reversed(list(works)):
            times[name].append(works[name]())
    return times


def timed(work: Callable[[], object]) -> Callable[[], tuple[float, float]]:
    """Wrap work for `interleave`: wall and CPU seconds. The work must end with its result in host memory."""

    def measured() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - wall, time.process_time() - cpu

    return measured


@contextmanager
def process_apart(environment: Mapping[str, str]) -> Iterator[ProcessPoolExecutor]:
    """A spawned process with these variables added to its environment. It runs one task at a time."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        with patch.dict(os.environ, environment):
            process.submit(os.getpid).result()  # the process starts with its first task
        yield process


def works_apart(
    process: Executor, make: Callable[..., Works], *arguments: object
) -> dict[str, Callable[[], tuple[float, ...]]]:
    """Call ``make`` in another process and wrap the works it returns, which stay and run there, for `interleave`."""
    names: list[str] = process.submit(_make, make, arguments).result()
    return {name: lambda name=name: process.submit(_run, name).result() for name in names}  # type: ignore[misc]


_made: dict[str, Callable[[], tuple[float, ...]]] = {}
"""In the other process: the works of `works_apart`."""


def _make(make: Callable[..., Works], arguments: tuple[object, ...]) -> list[str]:
    _made.update(make(*arguments))
    return list(_made)


def _run(name: str) -> tuple[float, ...]:
    return _made[name]()


@contextmanager
def exact_products() -> Iterator[None]:
    """Turn TF32 off: by default a GPU rounds the factors of float32 convolutions to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square matrix product, the fastest of three."""
    size = 8192 if device != "cpu" else 1536
    a = torch.randn(size, size, device=device).to(dtype)
    return 2.0 * size**3 / best_time(lambda: a @ a, device)


def faster_precision(device: str) -> str:
    """``bf16`` if this device multiplies matrices faster in bfloat16 than in float32, else ``fp32``."""
    return "bf16" if matmul_flops(device, torch.bfloat16) > matmul_flops(device, torch.float32) else "fp32"


def copy_bytes(device: str) -> float:
    """Bytes per second that a large copy reads and writes, the fastest of three."""
    source = torch.ones((1 << 28) if device != "cpu" else (1 << 25), device=device)
    target = torch.empty_like(source)
    return 2.0 * source.numel() * source.element_size() / best_time(lambda: target.copy_(source), device)
