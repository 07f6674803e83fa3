"""The training loop of one worker, without Ray: on any iterator of micro-batches, alone or in a process group.

consumes: micro-batches of taught clips / produces: published checkpoints, ledger parts, progress numbers
waits for: the next micro-batches, and its fellow workers / unblocked by: the stream

Everything that may stop a run is agreed on before it does: what one worker sees (a fault in the stream, the
end of the plan, a NaN) travels in two small all-reduced vectors per step, one before the forward pass and one
before the update, so that all workers stop at the same place with the same sentence and none hangs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from echodfkd.config import RunConfig
from echodfkd.errors import RunError
from echodfkd.records import DistillationBatch, StageSpan
from echodfkd.storage import RunStorage
from echodfkd.training.checkpoints import latest_checkpoint
from echodfkd.training.collectives import gather_texts, sum_over_workers
from echodfkd.training.run_state import RunState, WorkerContext, publish_run, start_run
from echodfkd.training.schedule import learning_rate
from echodfkd.training.step import accumulate_gradients, check_finite, update

__all__ = ["WorkerContext", "first_step", "train"]


def first_step(storage: RunStorage) -> int:
    """Updates that the run folder's newest checkpoint holds: the 0-based number of the next one."""
    newest = latest_checkpoint(storage)
    return newest.step if newest else 0


def train(
    context: WorkerContext,
    batches: Iterator[DistillationBatch],
    config: RunConfig,
    storage: RunStorage,
    teacher_id: str,
) -> dict[str, Any]:
    """Train every student of the run on this worker's micro-batches, from the newest checkpoint to the last step.

    With ``data.order: fixed``, update s (from 0) trains on the slots s * G .. (s + 1) * G - 1 (G =
    train.global_batch) whatever the number of workers; a worker gets train.accumulation micro-batches of them.

    Args:
        context: who this worker is.
        batches: micro-batches that the newest checkpoint has not consumed.
        config: the run.
        storage: the run folder.
        teacher_id: who made the soft masks.

    Returns:
        start_step, steps, clips (of this call, all workers), losses (of the last update), wait_s and wall_s of
        this worker, quarantined (indices so far, all workers), published (folder of the newest checkpoint).

    Raises:
        RunError: the stream ended early or reports a fault, too many indices are quarantined, or a loss or
            gradient is not finite. Every worker raises the same sentence.
        InputError: the newest checkpoint does not belong to this run, or is damaged.
        ConfigError: the number of workers is not train.workers.
    """
    run = start_run(context, config, storage, teacher_id)
    for step in range(run.first_step, config.train.steps):
        asked = time.time()
        rounds, fault = _fetch(run, batches, step)
        started = time.time()
        total_weight = _agree(run, rounds, fault, step)
        sums = accumulate_gradients(run.students, rounds, total_weight=total_weight, device=run.device)
        losses = check_finite(run.students, sum_over_workers(sums), step + 1)
        rate = _rate(config, step)
        norms = update(run.students, rate, step + 1)
        _record(run, rounds, step + 1, started, rate, losses, norms)
        run.progress.add_step(step + 1, rounds, asked=asked, started=started, losses=losses, rate=rate)
        if (step + 1) % config.train.checkpoint_every == 0 or step + 1 == config.train.steps:
            publish_run(run, step + 1)
        run.progress.report(force=step + 1 == config.train.steps)
    return {
        "start_step": run.first_step,
        "steps": config.train.steps,
        "clips": (config.train.steps - run.first_step) * config.train.global_batch,
        "losses": run.progress.losses,
        "wait_s": run.progress.wait_s,
        "wall_s": run.progress.wall_s,
        "quarantined": run.quarantined,
        "published": run.published,
    }


def _fetch(run: RunState, batches: Iterator[DistillationBatch], step: int) -> tuple[list[DistillationBatch], str]:
    """The micro-batches of one step, and the sentence of what is wrong with them ("" if nothing is)."""
    train = run.config.train
    rounds: list[DistillationBatch] = []
    fault = ""
    for _ in range(train.accumulation):
        batch = next(batches, None)
        if batch is None:
            return rounds, (
                f"the clip stream ended early: worker {run.context.rank} got {len(rounds)} of {train.accumulation}"
                f" micro-batches for step {step + 1} of {train.steps} (plan: {run.config.plan_slots} clips)"
            )
        rounds.append(batch)
        run.ledger.add_quarantined(batch.quarantined)
        run.ledger.add_spans(batch.spans)
        fault = fault or batch.fault or _misplaced(run, batch, step)
    return rounds, fault


def _misplaced(run: RunState, batch: DistillationBatch, step: int) -> str:
    """What is wrong with the slots of a micro-batch: their number, or their place in the plan."""
    size = run.config.train.global_batch
    slots = [int(slot) for slot in batch.slot]
    if len(slots) != run.config.micro_batch:
        return (
            f"the clip stream sent {len(slots)} clips at step {step + 1}, a micro-batch holds {run.config.micro_batch}"
        )
    again = [slot for slot in slots if slot in run.consumed]
    if again:
        return f"the clip stream sent slot {again[0]} at step {step + 1}, but a checkpoint has consumed it already"
    # after a resume from an unordered run the plan has gaps, and steps no longer stand for ranges of slots
    if run.config.data.order == "fixed" and run.consumed.is_prefix:
        outside = [slot for slot in slots if not step * size <= slot < (step + 1) * size]
        if outside:
            return (
                f"data.order is fixed, but the clip stream sent slot {outside[0]} at step {step + 1}, which trains"
                f" on the slots {step * size} to {(step + 1) * size - 1}"
            )
    return ""


def _agree(run: RunState, rounds: Sequence[DistillationBatch], fault: str, step: int) -> float:
    """One all-reduce before the forward pass: the global weight, and whether any worker must stop the run."""
    weight = sum(float(batch.sample_weight.sum(dtype="float64")) for batch in rounds)
    bad = [row for batch in rounds for row in batch.quarantined]
    vector = torch.tensor([weight, float(len(bad)), float(bool(fault))], dtype=torch.float64)
    total_weight, quarantined, faults = sum_over_workers(vector)
    run.quarantined += int(quarantined)
    slots, limit = run.config.plan_slots, run.config.data.quarantine_limit
    too_many = quarantined and run.quarantined > limit * slots
    if not faults and not too_many and total_weight > 0:
        return total_weight
    run.ledger.flush(step + 1, kinds=["quarantine"])
    if faults:
        raise RunError(next(text for text in gather_texts(fault) if text))
    if too_many:
        reasons = [text for text in gather_texts(bad[-1].reason if bad else "") if text]
        raise RunError(
            f"{run.quarantined} indices are quarantined, more than data.quarantine_limit ({limit:g}) of the plan's"
            f" {slots} clips; {run.storage.root}/quarantine has the reasons, one of the last: {reasons[0]}"
        )
    raise RunError(f"the sample weights of step {step + 1} sum to {total_weight:g}, must be above 0")


def _rate(config: RunConfig, step: int) -> float:
    optimizer = config.optimizer
    return learning_rate(
        step,
        base=optimizer.learning_rate,
        warmup_steps=optimizer.warmup_steps,
        total_steps=config.train.steps,
        final_fraction=optimizer.final_fraction,
    )


def _record(
    run: RunState,
    rounds: Sequence[DistillationBatch],
    step: int,
    started: float,
    rate: float,
    losses: dict[str, float],
    norms: dict[str, float],
) -> None:
    """Rows of a finished update. Losses and norms are those of all workers: one of them writes them."""
    now = time.time()
    for batch in rounds:
        run.ledger.add_trained(batch, step)
        run.slots.extend(int(slot) for slot in batch.slot)
    clips = sum(len(batch.slot) for batch in rounds)
    frames = sum(batch.video.shape[0] * batch.video.shape[1] for batch in rounds)
    run.ledger.add_spans([StageSpan("students", run.context.name, started, now, clips, frames)])
    if run.context.rank == 0:
        for name, loss in losses.items():
            run.ledger.add_training(
                student=name, step=step, loss=loss, learning_rate=rate, grad_norm=norms[name], time=now
            )
