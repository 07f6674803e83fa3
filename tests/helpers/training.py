"""Small runs of the training loop for tests: clips as a function of their slot, and processes that train on them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import DataConfig, OptimizerConfig, TrainConfig, WindowConfig
from echodfkd.core.errors import EchoDFKDError
from echodfkd.core.records import DistillationBatch, Quarantined
from echodfkd.models.students.output import StudentOutput
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint

SIZE, FRAMES, TEACHER = 8, 3, "teacher-1234abcd"
ENGINES = {
    "plain": ("plain", 0),
    "zero0": ("deepspeed", 0),
    "zero1": ("deepspeed", 1),
    "zero2": ("deepspeed", 2),
    "zero3": ("deepspeed", 3),
}
BATCH_STUDENT = {"a": StudentConfig(blocks=1, layers=2, filters=3, norm="batch")}
GROUP_STUDENT = {"a": StudentConfig(blocks=2, layers=1, filters=3, norm="group")}
PAIR = {**BATCH_STUDENT, "b": StudentConfig(blocks=2, layers=1, filters=2, norm="batch")}


FAMILY = {
    f"c{blocks}{layers}": StudentConfig(blocks=blocks, layers=layers, filters=2)
    for blocks in (1, 2, 3, 4)
    for layers in (1, 2, 3, 4)
}


def first_step(storage: RunStorage) -> int:
    """Updates that the run folder's newest checkpoint holds: the 0-based number of the next one."""
    newest = latest_checkpoint(storage)
    return newest.step if newest else 0


def small_config(
    *,
    engine: str = "plain",
    workers: int = 1,
    students: dict[str, StudentConfig] | None = None,
    size: int = SIZE,
    **train_options: Any,
) -> RunConfig:
    """10 steps of 4 clips; ``engine`` is a key of ENGINES."""
    kind, stage = ENGINES[engine]
    train_config = TrainConfig(
        steps=10, global_batch=4, workers=workers, engine=kind, zero_stage=stage, checkpoint_every=5
    )
    return RunConfig(
        students=students or BATCH_STUDENT,
        window=WindowConfig(frames=FRAMES, size=size),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=3, clip_norm=0.2),
        data=DataConfig(quarantine_limit=0.1),
        train=dataclasses.replace(train_config, **train_options),
    )


def make_batch(slots: list[int], size: int = SIZE) -> DistillationBatch:
    """Clips whose pixels, masks and weights follow from their slots alone."""
    videos, masks = [], []
    for slot in slots:
        rng = np.random.default_rng(slot)
        centre = rng.uniform(2, size - 2, size=(2, 1, 1))
        rows, columns = np.mgrid[:size, :size]
        radius = rng.uniform(1.5, 3, size=(FRAMES, 1, 1))
        prob = 1 / (1 + np.exp(np.hypot(rows - centre[0], columns - centre[1]) - radius))
        masks.append(np.rint(255 * prob).astype(np.uint8))
        videos.append(np.clip(200 * (1 - prob) + rng.normal(0, 20, prob.shape), 0, 255).astype(np.uint8))
    count = len(slots)
    batch = DistillationBatch(
        slot=np.array(slots, np.int64),
        index=np.array(slots, np.int64),
        clip_id=tuple(f"test-i{slot}" for slot in slots),
        epoch=np.zeros(count, np.int64),
        window_start=np.zeros(count, np.int64),
        video=np.stack(videos),
        teacher_prob=np.stack(masks)[:, :, None],
        sample_weight=np.array([(1.0, 0.5, 2.0)[slot % 3] for slot in slots], np.float32),
    )
    batch.video.setflags(write=False)  # as the columns of a stream are
    return batch


def plan_stream(config: RunConfig, rank: int, *, start: int, stop: int | None = None) -> Iterator[DistillationBatch]:
    """This rank's micro-batches of the steps start .. stop - 1, in plan order."""
    train_config = config.train
    for step in range(start, train_config.steps if stop is None else stop):
        for turn in range(train_config.accumulation):
            place = turn * train_config.workers + rank
            first = step * train_config.global_batch + place * config.micro_batch
            yield make_batch(list(range(first, first + config.micro_batch)), config.window.size)


def run_training(
    config: RunConfig,
    root: Path | str,
    *,
    rank: int = 0,
    stop: int | None = None,
    change: Callable[[DistillationBatch], DistillationBatch] | None = None,
    reports: list[dict[str, Any]] | None = None,
    attempt: str = "first",
) -> dict[str, Any]:
    """Train in this process, as one rank; an explained error comes back as {"error": sentence}."""
    from echodfkd.training.loop import WorkerContext, train

    storage = RunStorage(str(root))
    stream = plan_stream(config, rank, start=first_step(storage), stop=stop)
    context = WorkerContext(
        rank=rank,
        world_size=config.train.workers,
        device="cpu",
        name=f"students-rank{rank}",
        attempt=attempt,
        report=(reports if reports is not None else []).append,
    )
    try:
        return train(context, map(change or (lambda batch: batch), stream), config, storage, TEACHER)
    except EchoDFKDError as error:
        return {"error": str(error)}


def training_rows(root: Path | str) -> list[dict[str, Any]]:
    """The training log of a run, every part."""
    storage = RunStorage(str(root))
    parts = [part for part in storage.list("logs") if "/training-" in part]
    return [row for part in parts for row in storage.read_table(part).to_pylist()]


def loss_curve(root: Path | str, student: str) -> list[float]:
    """A student's losses by update."""
    rows = [row for row in training_rows(root) if row["student"] == student]
    return [row["loss"] for row in sorted(rows, key=lambda row: row["step"])]


def quarantine_one(batch: DistillationBatch) -> DistillationBatch:
    """The batch, with one quarantined index on its back."""
    slot = int(batch.slot[0])
    row = Quarantined(slot=slot, index=slot, clip_id=f"bad-{slot}", stage="source", reason=f"clip {slot} is torn")
    return dataclasses.replace(batch, quarantined=(row,))


class Poisoned(nn.Module):
    """One convolution whose loss or gradient is not finite, or (norm) whose gradient is finite and its square not, for
    videos that begin with the grey level 255."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.where = where

    def forward(self, video_BTHW: torch.Tensor) -> StudentOutput:
        B, T, H, W = video_BTHW.shape
        logits = self.conv(video_BTHW.reshape(B * T, 1, H, W).float() / 255).view(B, T, 1, H, W)
        if int(video_BTHW[0, 0, 0, 0]) != 255:
            return StudentOutput(logits)
        if self.where == "loss":
            return StudentOutput(logits * math.nan)
        huge = math.inf if self.where == "gradient" else 1e30
        logits.register_hook(lambda gradient: gradient * huge)
        return StudentOutput(logits)


class Workers:
    """Processes of one gloo group that run one scenario after another: their imports take longer than most scenarios.

    A scenario that fails ends them, and the next one gets new ones.

    Args:
        count: how many; one has no process group.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: list[Any] = []
        self._pipes: list[Any] = []

    def start(self, scenario: Callable[[int, str], None], folder: Path) -> None:
        """Start ``scenario(rank, folder)`` on each; `join` waits for it."""
        if not self._processes:
            self._spawn(folder)
        for pipe in self._pipes:
            pipe.send((scenario, str(folder)))

    def join(self) -> None:
        """Wait until all have ended the scenario. Raises RuntimeError with the traceback of the one that failed."""
        from multiprocessing.connection import wait

        waiting = list(self._pipes)
        while waiting:
            for pipe in wait(waiting):
                try:
                    failure = pipe.recv()
                except EOFError:
                    failure = "the process ended"
                if failure:
                    self.close()
                    raise RuntimeError(failure)
                waiting.remove(pipe)

    def run(self, scenario: Callable[[int, str], None], folder: Path) -> None:
        """Start it and wait for it."""
        self.start(scenario, folder)
        self.join()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []

    def _spawn(self, folder: Path) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        for rank in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self._count, str(folder), theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)


def _serve(rank: int, count: int, folder: str, pipe: Any) -> None:
    """Run scenarios until the process is ended."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    if count > 1:
        place, longest = f"file://{folder}/group", timedelta(minutes=5)  # one that waits for a dead one ends, too
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=count, timeout=longest)
    while True:
        try:
            scenario, place = pipe.recv()
            scenario(rank, place)
            pipe.send("")
        except EOFError:  # the parent has ended
            os._exit(0)  # gloo's threads can abort an orderly interpreter exit
        except Exception:
            pipe.send(f"rank {rank}: {traceback.format_exc()}")


def save_result(folder: str, name: str, rank: int, values: Any) -> None:
    """Keep what a process found for the test that asserts on it."""
    Path(folder, f"{name}-rank{rank}.json").write_text(json.dumps(values))


def load_results(folder: Path, name: str, count: int = 2) -> list[Any]:
    """What each rank kept."""
    return [json.loads(Path(folder, f"{name}-rank{rank}.json").read_text()) for rank in range(count)]
