"""A distillation run, from config to report. The run knows its parts; no part knows the run.

     ClipSource --> (generator pools) --> teacher pool --> students --> published checkpoints
     read tasks     actors of the         actors, or a     workers            |
                    generated parts       pool per member                     |
     (clip_stream)  (generator_pool)      (teacher_pool)   (student_workers)  v
                                                             report <-- evaluator pool

part            consumes             produces               waits for         unblocked by
source          slots of the plan    blocks of clips        room downstream   the teacher pools
generators      pending clips        their pixels           a block           the source
teacher pools   blocks of clips      blocks + soft masks    a block           the source, the generators
students        taught blocks        checkpoints, ledger    the stream        the teacher pools
evaluators      manifests            score rows             a manifest        the students
report          rows                 summary, page          the end           all of them
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from ray.exceptions import RayActorError
from ray.train.v2.api.exceptions import TrainingFailedError

import echodfkd
from echodfkd.config.identity import config_hash, keep_longer, open_run_folder
from echodfkd.config.rules.heads import check_members_give, check_routes_give, check_teacher_gives
from echodfkd.config.rules.jobs import needs_students
from echodfkd.config.rules.route import check_routed_parts
from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.errors import EchoDFKDError, RunError, one_line
from echodfkd.core.redaction import dump_json
from echodfkd.evaluation.judge import configured_judge
from echodfkd.models.students.cost import student_facts
from echodfkd.reporting.rows import STARTED
from echodfkd.runtime.cluster.connection import connected, last_sentence, machine_line, with_absolute_paths
from echodfkd.runtime.cluster.preemption import StopNotice, StopSignal
from echodfkd.runtime.cluster.rooms import Room, room_for
from echodfkd.runtime.cluster.scaling import nodes_for
from echodfkd.runtime.evaluator_pool import EvaluatorPool
from echodfkd.runtime.living import kept_pools
from echodfkd.runtime.precision import keep_precision, measured_precision, settle_precision
from echodfkd.runtime.progress import (
    ProgressLine,
    first_update_time,
    spoken,
    start_progress_actor,
    wait_for_first_actor,
)
from echodfkd.runtime.stream.builders import load_teacher, source_notes
from echodfkd.runtime.student_workers import build_trainer, fit
from echodfkd.storage.files import RunStorage
from echodfkd.storage.lease import Lease, held
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.storage.schemas import SPAN_SCHEMA
from echodfkd.training.initial_weights import check_initial


def run_distillation(
    config: RunConfig, print_line: Callable[[str], None], *, like: str = "", within_s: float = math.inf
) -> dict[str, Any]:
    """Run (or resume) a distillation and write its report.

    Args:
        config: of the run.
        print_line: takes lines for a person.
        like: folder of an earlier run of one study, whose measured precisions count here too; "" if there is none.
        within_s: seconds after which the run stops, as by SIGTERM, and can be resumed.

    Returns:
        The content of summary.json, with ``report`` added: the path of the page. Of a run that SIGTERM or its time has
        ended: its name and ``stopped``, the sentence that says so; `jobs/report.py` can write the rest.

    Raises:
        EchoDFKDError: one sentence; everything published before stays.
    """
    config = with_absolute_paths(config)
    try:
        with ExitStack() as opened:
            config, seconds = settle_precision(config, opened, spoken(config, print_line), like=like)
            teacher_id = check_inputs(config)
            storage = open_run_folder(config, teacher_id)
            keep_precision(storage, seconds)
            with held(storage, lease_s=config.lease_s, log=spoken(config, print_line)) as lease:
                return _run_leased(config, lease, teacher_id, print_line, within_s)
    except OSError as error:  # a disk, a store or a network, for longer than retries bridge
        raise RunError(
            f"the run stopped, a file or a host can no longer be reached: {one_line(error)}; what was published in"
            f" {config.root} stays, the same command goes on from there"
        ) from error


def _run_leased(
    config: RunConfig, lease: Lease, teacher_id: str, print_line: Callable[[str], None], within_s: float
) -> dict[str, Any]:
    """The run, while it holds its folder's lease."""
    storage = lease.storage
    keep_longer(storage, config)
    started = clock.now()
    count = len(config.students)
    students = f"{count} student{'s' * (count != 1)}"
    say = spoken(config, print_line)
    say(f"run {config.name}: {config.plan_slots} clips, {students}, folder {config.root}")
    for note in source_notes(config):
        say(f"note: {note}")
    try:
        with StopSignal(config.train.stop_grace_s, within_s) as stop, connected(config.ray):
            stop.listen()
            with nodes_for(config, say), room_for(config, say) as room:
                facts = _run_stages(config, lease, teacher_id, print_line, stop, room)
    except StopNotice as notice:
        lease.check()
        facts = {"stopped": str(notice), "wall_s": clock.now() - started}
        write_run_facts(config, storage, teacher_id, facts)
        return {"run": config.name, "stopped": str(notice)}
    except (EchoDFKDError, KeyboardInterrupt) as error:
        lease.check()  # the report of a folder that another run has taken over is that run's
        reason = str(error) or "interrupted; the same command resumes it"
        _finish_after(error, config, storage, teacher_id, {"wall_s": clock.now() - started, "error": reason})
        raise
    lease.check()
    say("the report is being written")
    facts["wall_s"] = clock.now() - started
    return {**finish(config, storage, teacher_id, facts), "stopped": ""}


def _finish_after(
    error: BaseException, config: RunConfig, storage: RunStorage, teacher_id: str, facts: dict[str, Any]
) -> None:
    """`finish` a failed run. The cause (a full disk) may prevent the report too; the first error is the one to show."""
    try:
        finish(config, storage, teacher_id, facts)
    except (OSError, EchoDFKDError) as second:
        error.add_note(f"the report could not be written either: {second}")


def _run_stages(
    config: RunConfig, lease: Lease, teacher_id: str, print_line: Callable[[str], None], stop: StopSignal, room: Room
) -> dict[str, Any]:
    """Run all stages until the plan is consumed and the last checkpoint is scored."""
    progress_actor = start_progress_actor(kept_pools(lease.storage))
    student_sizes(config, lease.storage)  # while that actor starts
    wait_for_first_actor(progress_actor)
    progress, say = ProgressLine(config, progress_actor, print_line, room), spoken(config, print_line)
    evaluators = EvaluatorPool(config, progress_actor) if config.evaluation.enabled else None
    try:
        facts = _train(config, teacher_id, progress_actor, lease, stop, say)
        progress.is_training = False
        if evaluators is not None:
            say("training is done; the last checkpoint is being scored")
            evaluators.finish()
            say("all checkpoints are scored; cases are being drawn")
            evaluators.draw_overlays()
        if config.evaluation.real_cine:
            from echodfkd.reporting.segmented.real_heart import draw_real_heart

            draw_real_heart(lease.storage, config.students)
    finally:
        progress.close()
        if evaluators is not None:
            if evaluators.spans:
                rows = (vars(span) for span in evaluators.spans)
                name = f"logs/spans-evaluators-{uuid.uuid4().hex[:8]}.parquet"
                lease.storage.write_table(name, rows, SPAN_SCHEMA)
            evaluators.close()
    facts["peak_memory_mb"] = progress.peak_memory_mb
    return facts


def _train(
    config: RunConfig,
    teacher_id: str,
    progress_actor: Any,
    lease: Lease,
    stop: StopSignal,
    print_line: Callable[[str], None],
) -> dict[str, Any]:
    """Block until the students have consumed the plan. Raises `RunError` if training fails.

    Ray Train counts a group's restarts over the whole run, which would end every long run on preemptible machines. So a
    trainer that gives up after publishing a checkpoint is replaced by a new one, and so is one whose controller died.
    The run fails after train.max_failures of these without a checkpoint in between.
    """
    newest, started = latest_checkpoint(lease.storage), clock.now()
    deaths = 0
    while newest is None or not (newest.step >= config.train.steps or newest.ended):
        stop.training(progress_actor)
        try:
            trainer = build_trainer(
                config, teacher_id=teacher_id, progress_actor=progress_actor, lease_epoch=lease.epoch
            )
            outcome = fit(trainer)
        except (TrainingFailedError, RayActorError) as error:
            stop.check()
            before, newest = newest, latest_checkpoint(lease.storage)
            deaths = deaths + 1 if newest == before else 0
            if deaths > config.train.max_failures or (deaths and isinstance(error, TrainingFailedError)):
                raise RunError(f"training failed after all restarts: {last_sentence(error)}") from error
            step = newest.step if newest else 0
            print_line(f"training starts again from step {step}: {last_sentence(error)}")
            continue
        if "failed" in outcome:
            raise RunError(str(outcome["failed"]))
        stop.check()
        first = first_update_time(progress_actor)
        return {"first_step_s": first - started if first else None}
    return {"first_step_s": None}


def check_inputs(config: RunConfig) -> str:
    """Load every input once in the driver, before any actor starts. Returns the teacher's id.

    Raises:
        ConfigError: there is no student to train, or one needs an output that the teacher does not have.
        InputError: a folder or a weights file cannot be used.
    """
    needs_students(config)
    teacher = load_teacher(config, device="cpu")
    check_teacher_gives(config, teacher.class_names)
    check_members_give(config, teacher.member_classes)
    check_routes_give(config, teacher.member_classes)
    check_routed_parts(config)
    check_initial(config)
    source_notes(config)
    if config.evaluation.enabled:
        configured_judge(config.evaluation)
    return teacher.teacher_id


def student_sizes(config: RunConfig, storage: RunStorage) -> dict[str, Any]:
    """`student_facts` of every student. Counting takes seconds, so they are counted once and kept in the run folder."""
    if storage.exists(STARTED):
        return storage.read_json(STARTED).get("students") or {}
    sizes = {name: student_facts(student.network) for name, student in config.students.items()}
    storage.write(STARTED, json.dumps({"students": sizes}).encode())
    return sizes


def write_run_facts(config: RunConfig, storage: RunStorage, teacher_id: str, facts: dict[str, Any]) -> None:
    """Write run.json: what the rows do not say."""
    run = {
        "name": config.name,
        "version": echodfkd.__version__,
        "config_hash": config_hash(config),
        "teacher_id": teacher_id,
        "seed": config.seed,
        "plan_slots": config.plan_slots,
        "students": student_sizes(config, storage),
        "source_notes": source_notes(config),
        "machine": machine_line(),
        "precision": measured_precision(storage),
        **facts,
    }
    storage.write("run.json", dump_json(run))


def finish(config: RunConfig, storage: RunStorage, teacher_id: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Write run.json, and summary.json and report.html from the rows. Returns the summary.

    Figures and statistics are imported here: Ray starts a second earlier without them.
    """
    from echodfkd.reporting.page.report import write_report
    from echodfkd.reporting.summary import write_summary

    write_run_facts(config, storage, teacher_id, facts)
    summary = write_summary(storage)
    return {**summary, "report": write_report(storage)}
