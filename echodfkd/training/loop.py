"""The training loop of one worker, without Ray: on any iterator of micro-batches, in one process or in a group.

consumes: micro-batches of taught clips / produces: published checkpoints, ledger parts, progress numbers
waits for: the next micro-batches, and its fellow workers / unblocked by: the stream

All workers stop at the same step with the same sentence, and none hangs: a fault in the stream, the end of the plan
or a NaN that one worker sees is exchanged in two small all-reduced vectors per step, one before the forward pass and
one before the update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.errors import RunError
from echodfkd.core.records import DistillationBatch, StageSpan
from echodfkd.storage.files import RunStorage
from echodfkd.training.collectives import gather_texts, sum_over_workers
from echodfkd.training.objective import Totals, own_totals
from echodfkd.training.run_state import RunState, WorkerContext, flush_log, publish_run, start_run
from echodfkd.training.schedule import learning_rate
from echodfkd.training.step import LOSS, NORM, accumulate_gradients, check_finite, term_values, update
from echodfkd.training.student import Student

__all__ = ["WorkerContext", "train"]


def train(
    context: WorkerContext,
    batches: Iterator[DistillationBatch],
    config: RunConfig,
    storage: RunStorage,
    teacher_id: str,
) -> dict[str, Any]:
    """Train the students of the run on this worker's micro-batches, from the newest checkpoint to the last step.

    A student that early stopping has ended stays as it is; when all have ended, the run publishes and ends.
    With ``data.order: fixed``, update s (from 0) trains on the slots s * G .. (s + 1) * G - 1 (G =
    train.global_batch), with any number of workers; a worker gets train.accumulation micro-batches of them.

    Args:
        context: who this worker is.
        batches: micro-batches that the newest checkpoint has not consumed.
        config: the run.
        storage: the run folder.
        teacher_id: of the teacher that made the soft masks.

    Returns:
        start_step, steps (updates of the run, unless `context.stop_asked` ended it early), clips (of this call, all
        workers), losses (of each student's last update), wait_s and wall_s of this worker, quarantined (indices so
        far, all workers), published (folder of the newest checkpoint).

    Raises:
        RunError: the stream ended early or reports a fault, too many indices are quarantined, or a loss or gradient
            is not finite; every worker raises the same sentence. Or a `StudentMemoryError` of this worker only.
        InputError: the newest checkpoint does not belong to this run, or is damaged.
        ConfigError: the number of workers is not train.workers.
    """
    run = start_run(context, config, storage, teacher_id)
    done = run.first_step
    for step in range(run.first_step, config.train.steps):
        students = run.active
        if not students:
            break
        asked = clock.now()
        rounds, fault = _fetch(run, batches, step)
        started = clock.now()
        totals = _agree(run, rounds, fault, step)
        look = run.steering.look if run.steering else None
        parts = accumulate_gradients(students, rounds, totals=totals, step=step, device=run.device, look=look)
        rows = _sum_over_workers(students, parts)
        check_finite(rows, step + 1)
        losses, norms = ({name: row[place] for name, row in rows.items()} for place in (LOSS, NORM))
        rate = _rate(config, step)
        norms |= update(students, rate, step + 1)
        if run.painter is not None:
            run.painter.update(students, step + 1)
        back = run.steering.add(rounds) if run.steering else []
        _record_clips(run, rounds, back, step + 1, started)
        _log_update(run, step, rate, rows, norms)
        run.progress.add_step(step + 1, rounds, asked=asked, started=started, losses=losses, rate=rate)
        for name, loss in losses.items():
            run.early[name].add(loss, step + 1, config.train)
        done = step + 1
        last = run.stopping or done == config.train.steps or not run.active
        if last or run.leaving or done % config.train.checkpoint_every == 0:
            publish_run(run, done)
        run.progress.report(force=last)
        if run.stopping:
            break
    return {
        "start_step": run.first_step,
        "steps": done,
        "clips": (done - run.first_step) * config.train.global_batch,
        "losses": run.progress.losses,
        "wait_s": run.progress.wait_s,
        "wall_s": run.progress.wall_s,
        "quarantined": run.quarantined,
        "published": run.published,
    }


def _fetch(run: RunState, batches: Iterator[DistillationBatch], step: int) -> tuple[list[DistillationBatch], str]:
    """The micro-batches of one step, and a sentence about their fault ("" if there is none)."""
    options = run.config.train
    rounds: list[DistillationBatch] = []
    fault = ""
    for _ in range(options.accumulation):
        batch = next(batches, None)
        if batch is None:
            return rounds, (
                f"the clip stream ended early: worker {run.context.rank} got {len(rounds)} of {options.accumulation}"
                f" micro-batches for step {step + 1} of {options.steps} (plan: {run.config.plan_slots} clips)"
            )
        rounds.append(batch)
        run.ledger.add_quarantined(batch.quarantined)
        run.ledger.add_dropped(batch.dropped)
        run.ledger.add_spans(batch.spans)
        fault = fault or batch.fault or _misplaced(run, batch, step)
    return rounds, fault


def _misplaced(run: RunState, batch: DistillationBatch, step: int) -> str:
    """A sentence about wrong slots of a micro-batch, in number, in place or by their law; "" if they are right."""
    size = run.config.train.global_batch
    slots = [int(slot) for slot in batch.slot]
    if len(slots) != run.config.micro_batch:
        return (
            f"the clip stream sent {len(slots)} clips at step {step + 1}, a micro-batch holds {run.config.micro_batch}"
        )
    again = [slot for slot in slots if slot in run.consumed]
    if again:
        return f"the clip stream sent slot {again[0]} at step {step + 1}, but a checkpoint has consumed it already"
    # After a resume from an unordered run the plan has gaps, and a step is no longer a range of slots.
    if run.config.data.order == "fixed" and run.consumed.is_prefix:
        outside = [slot for slot in slots if not step * size <= slot < (step + 1) * size]
        if outside:
            return (
                f"data.order is fixed, but the clip stream sent slot {outside[0]} at step {step + 1}, which trains"
                f" on the slots {step * size} to {(step + 1) * size - 1}"
            )
    return run.steering.fault(batch) if run.steering else ""


def _agree(run: RunState, rounds: Sequence[DistillationBatch], fault: str, step: int) -> Totals:
    """One all-reduce before the forward pass: the global weights, and whether any worker must stop the run.

    Raises `RunError` on every worker alike.
    """
    bad = [row for batch in rounds for row in batch.quarantined]
    flags = (float(len(bad)), float(bool(fault)), float(run.context.stop_asked()), float(run.context.is_leaving()))
    vector = torch.tensor([*own_totals(rounds), *flags], dtype=torch.float64)
    *sums, quarantined, faults, stops, leaving = sum_over_workers(vector)
    totals = Totals(*sums)
    run.stopping, run.leaving = bool(stops), bool(leaving)
    run.quarantined += int(quarantined)
    run.progress.quarantined = run.quarantined
    slots, limit = run.config.plan_slots, run.config.data.quarantine_limit
    too_many = quarantined and run.quarantined > limit * slots
    if not faults and not too_many and totals.weight > 0:
        return totals
    run.ledger.flush(step + 1, kinds=["quarantine"])
    if faults:
        raise RunError(next(text for text in gather_texts(fault) if text))
    if too_many:
        reasons = [text for text in gather_texts(bad[-1].reason if bad else "") if text]
        raise RunError(
            f"{run.quarantined} indices are quarantined, more than data.quarantine_limit ({limit:g}) of the plan's"
            f" {slots} clips; {run.storage.root}/quarantine has the reasons, one of the last: {reasons[0]}"
        )
    raise RunError(f"the sample weights of step {step + 1} sum to {totals.weight:g}, must be above 0")


def _sum_over_workers(students: Sequence[Student], parts: torch.Tensor) -> dict[str, Sequence[float]]:
    """The rows of `accumulate_gradients` by student, summed over the workers."""
    sums, width = sum_over_workers(parts.flatten()), parts.shape[1]
    return {student.name: sums[place * width : (place + 1) * width] for place, student in enumerate(students)}


def _rate(config: RunConfig, step: int) -> float:
    optimizer = config.optimizer
    return learning_rate(
        step,
        schedule=optimizer.schedule,
        base=optimizer.learning_rate,
        warmup_steps=optimizer.warmup_steps,
        total_steps=config.train.steps,
        final_fraction=optimizer.final_fraction,
    )


def _record_clips(
    run: RunState,
    rounds: Sequence[DistillationBatch],
    back: Sequence[Sequence[bool]],
    step: int,
    started: float,
) -> None:
    """Ledger rows and slots of this worker's clips of update ``step`` (from 1), and its span in the timeline.

    ``back`` is empty, or says of each batch's clips which of them come back.
    """
    for batch, own in zip(rounds, back or [()] * len(rounds), strict=True):
        run.ledger.add_trained(batch, step, own)
        run.slots.extend(int(slot) for slot in batch.slot)
    clips = sum(len(batch.slot) for batch in rounds)
    frames = sum(batch.video.shape[0] * batch.video.shape[1] for batch in rounds)
    run.ledger.add_spans([StageSpan("students", run.context.name, started, clock.now(), clips, frames)])


def _log_update(
    run: RunState, step: int, rate: float, rows: Mapping[str, Sequence[float]], norms: Mapping[str, float]
) -> None:
    """Log an update of every student in training; ``step`` as in `accumulate_gradients`, whose ``rows`` these are."""
    flush_log(run)
    now = clock.now()
    for student in run.active:
        name, seconds = student.name, student.timer.take()
        row = {"student": name, "step": step + 1, "loss": rows[name][LOSS], "learning_rate": rate, "time": now}
        row |= {"grad_norm": norms[name], "terms": term_values(rows[name], student, step)}
        if run.context.rank == 0:  # all workers have the same row
            run.pending_log.append((row, seconds))
