"""Says before training which students do not fit the workers' memory, and what would.

Students run one after the other: a worker holds the states of all of its students (a sum) and the activations
of one (a maximum).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.training.collectives import gather_texts
from echodfkd.training.free_memory import free_memory
from echodfkd.training.student_costs import StudentCost, round_clips

MEGABYTE = 1e6


@dataclass(frozen=True)
class WorkerMemory:
    """One worker: the name of its memory, the free bytes there (None: unknown), and for each of its students the
    bytes of its state and of its activations (0 where early stopping has ended its training).
    """

    place: str
    free: int | None
    students: dict[str, tuple[int, int]]

    @property
    def needed(self) -> int:
        """Bytes that its students take."""
        return _need(self.students)


def guard_memory(
    config: RunConfig,
    costs: Mapping[str, StudentCost],
    *,
    own: Sequence[str],
    stopped: Sequence[str],
    device: torch.device,
) -> list[WorkerMemory]:
    """Compare what the students will take with what the workers have. Every worker must call it.

    Args:
        config: the run; ``train.memory_share`` of what is free may be filled, shared by the workers of a place.
        costs: by student.
        own: students of this worker.
        stopped: students that train no more.
        device: of this worker.

    Returns:
        What was compared, by rank.

    Raises:
        RunError: names the students that do not fit, and what would; the same sentence on every worker.
    """
    place, free = free_memory(device)
    students = {
        name: (costs[name].state_bytes(config.train), 0 if name in stopped else costs[name].activation_bytes)
        for name in own
    }
    texts = gather_texts(json.dumps(asdict(WorkerMemory(place, free, students))))
    workers = [WorkerMemory(**json.loads(text)) for text in texts]
    misfits = [find_misfits(worker.students, _budget(config, workers, rank)) for rank, worker in enumerate(workers)]
    if any(misfits):
        rank = next(rank for rank, names in enumerate(misfits) if names)
        raise RunError(_sentence(config, workers, rank, misfits[rank]))
    return workers


def find_misfits(students: Mapping[str, tuple[int, int]], budget: int | None) -> list[str]:
    """Students to leave out, the hungriest first, until the others fit together; [] where all do."""
    kept = dict(students)
    left_out: list[str] = []
    while kept and budget is not None and _need(kept) > budget:
        left_out.append(max(kept, key=lambda name: sum(kept[name])))
        del kept[left_out[-1]]
    return left_out


def memory_lines(config: RunConfig, workers: Sequence[WorkerMemory], costs: Mapping[str, StudentCost]) -> list[str]:
    """The table that a run prints before it trains."""
    lines = [f"memory per worker, MB: weights, gradients, moments + activations of {round_clips(config)} clips"]
    width = max(map(len, costs))
    for name, row in memory_json(config, workers, costs)["students"].items():
        where = f"  worker {row['rank']}" if row["rank"] is not None else ""
        lines.append(
            f"  {name:<{width}}  {row['parameters']:>10,} weights"
            f"  {row['state_mb']:>9,.1f} + {row['activations_mb']:>9,.1f}{where}"
        )
    for rank, worker in enumerate(workers):
        budget = _budget(config, workers, rank)
        room = f" of {budget / MEGABYTE:,.0f} it may fill" if budget is not None else ""
        lines.append(f"  worker {rank} ({worker.place}): {worker.needed / MEGABYTE:,.1f}{room}")
    return lines


def memory_json(
    config: RunConfig, workers: Sequence[WorkerMemory], costs: Mapping[str, StudentCost]
) -> dict[str, dict[str, dict[str, int | float | None]]]:
    """The same as plain values; ``rank`` is None where every worker holds the student."""
    spread = config.train.placement == "spread"
    students: dict[str, dict[str, int | float | None]] = {}
    for rank, worker in enumerate(workers):
        for name, (state, activations) in worker.students.items():
            students[name] = {
                "parameters": costs[name].parameters,
                "state_mb": state / MEGABYTE,
                "activations_mb": activations / MEGABYTE,
                "rank": rank if spread else None,
            }
    return {"students": {name: students[name] for name in costs}}


def _need(students: Mapping[str, tuple[int, int]]) -> int:
    return sum(state for state, _ in students.values()) + max((kept for _, kept in students.values()), default=0)


def _budget(config: RunConfig, workers: Sequence[WorkerMemory], rank: int) -> int | None:
    """Bytes that this worker may fill: its part of what the workers of its place found free."""
    if not config.train.memory_share:
        return None
    sharing = [worker for worker in workers if worker.place == workers[rank].place]
    known = [worker.free for worker in sharing if worker.free is not None]
    return int(config.train.memory_share * min(known) / len(sharing)) if known else None


def _sentence(config: RunConfig, workers: Sequence[WorkerMemory], rank: int, misfits: Sequence[str]) -> str:
    worker, train = workers[rank], config.train
    needs = ", ".join(
        f"{name} needs {sum(worker.students[name]) / MEGABYTE:,.1f} MB"
        f" ({worker.students[name][0] / MEGABYTE:,.1f} for weights, gradients and moments,"
        f" {worker.students[name][1] / MEGABYTE:,.1f} for activations)"
        for name in misfits
    )
    budget = _budget(config, workers, rank)
    assert budget is not None
    rest = len(worker.students) - len(misfits)
    beside = f" beside {rest} other(s)" if rest else ""
    who = f"student {misfits[0]} does" if len(misfits) == 1 else f"students {', '.join(misfits)} do"
    return (
        f"{who} not fit the memory of worker {rank} ({worker.place}){beside}: {needs} at"
        f" {round_clips(config)} clips a pass, and the worker may fill {budget / MEGABYTE:,.1f} MB"
        f" (train.memory_share {train.memory_share:g} of what is free, shared by the workers there);"
        f" {_remedy(config, workers)}; or leave out what does not fit"
    )


def _remedy(config: RunConfig, workers: Sequence[WorkerMemory]) -> str:
    """The options that make room, and the smallest train.accumulation that would."""
    train = config.train
    hints = []
    clips = config.micro_batch
    for parts in (n for n in range(2, clips + 1) if clips % n == 0):  # activations grow with the clips of a pass
        smaller = [{name: (s, a // parts) for name, (s, a) in worker.students.items()} for worker in workers]
        if all(not find_misfits(kept, _budget(config, workers, rank)) for rank, kept in enumerate(smaller)):
            hints.append(f"train.accumulation={train.accumulation * parts} would fit")
            break
    else:
        hints.append("a smaller train.global_batch or window would take less")
    if train.placement == "replicate" and len(config.students) > 1:
        hints.append("train.placement=spread holds fewer students on each of several workers")
    if train.engine == "deepspeed" and train.workers > 1 and train.zero_stage < 3:
        hints.append("a higher train.zero_stage divides weights, gradients and moments")
    return ", ".join(hints)
