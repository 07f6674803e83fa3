"""A training step of two threads on cores that other processes want too."""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from echodfkd.runtime.cluster.environment import SHARED_CORES
from tests.benchmarks.timing import Ratio, Report, Works, interleave, process_apart, timed, works_apart

USUAL = {"GOMP_SPINCOUNT": "300000"}
"""libgomp's default."""
THREADS, ROUNDS = 2, 3
OTHERS = {"as the machine is": 0, "another process a core": 1}


def busy_cores(report: Report, *, quick: bool) -> dict[str, object]:
    """A student's step with the variables of a local cluster's workers over one with libgomp's default."""
    rows = []
    for name, share in OTHERS.items():
        with ExitStack() as opened:
            opened.enter_context(_others(share * (os.cpu_count() or 1)))
            works = {}
            for key, variables in (("ours", SHARED_CORES), ("usual", USUAL)):
                process = opened.enter_context(process_apart(variables))
                works[key] = works_apart(process, _step, key)[key]
            times = interleave(works, 1 if quick else ROUNDS)
        wall = {key: [seconds[0] for seconds in found] for key, found in times.items()}
        ratio = Ratio.of(wall["ours"], wall["usual"])
        report(
            f"{name:<24} ours {statistics.median(wall['ours']):6.2f} s, libgomp's default"
            f" {statistics.median(wall['usual']):6.2f} s, ratio {ratio}"
        )
        rows.append({"others": name, "ours": wall["ours"], "usual": wall["usual"]})
    return {"value": ratio.median, "target": 1.0, "holds": ratio.high <= 1.0, "unit": "time over usual", "rows": rows}


def _step(key: str) -> Works:
    """In another process: a forward and backward pass of a student of the demo, by this name."""
    from echodfkd.models.students.build import build_student

    torch.set_num_threads(THREADS)
    student = build_student(blocks=3, layers=1).train()
    video = torch.randint(0, 256, (1, 4, 56, 56), generator=torch.Generator().manual_seed(0)).byte()

    def step() -> None:
        student(video).mask_logits.sigmoid().mean().backward()
        student.zero_grad(set_to_none=True)

    return {key: timed(step)}


@contextmanager
def _others(count: int) -> Iterator[None]:
    """So many processes that do nothing but work."""
    processes = [multiprocessing.get_context("spawn").Process(target=_work, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work() -> None:
    while True:
        sum(range(100_000))
