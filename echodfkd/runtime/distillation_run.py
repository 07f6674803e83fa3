"""One run, from config to report. The run holds the parts; no part holds the run.

     ClipSource --> teacher pool --> students --> published checkpoints
     read tasks     actors           workers            |
     (clip_stream)  (teacher_pool)   (student_workers)  v
                                       report <-- evaluator pool

part            consumes             produces               waits for         unblocked by
source          slots of the plan    blocks of clips        room downstream   the teacher pool
teacher pool    blocks of clips      blocks + soft masks    a block           the source
students        taught blocks        checkpoints, ledger    the stream        the teacher pool
evaluators      manifests            score rows             a manifest        the students
report          rows                 summary, page          the end           all of them
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.train.v2.api.exceptions import TrainingFailedError

import echodfkd
from echodfkd.config import RunConfig
from echodfkd.config_file import config_hash, config_to_yaml
from echodfkd.errors import ConfigError, EchoDFKDError, InputError, RunError
from echodfkd.models.build import build_student, load_judge
from echodfkd.models.convlstm import count_parameters
from echodfkd.reporting.report import write_report
from echodfkd.reporting.summary import write_summary
from echodfkd.runtime.cluster import connected, last_sentence, machine_line, with_absolute_paths
from echodfkd.runtime.evaluator_pool import EvaluatorPool
from echodfkd.runtime.parts import evaluation_source, load_teacher, training_source
from echodfkd.runtime.progress import ProgressLine, start_board, wait_for_first_actor
from echodfkd.runtime.resources import check_cluster
from echodfkd.runtime.student_workers import build_trainer
from echodfkd.schemas import SPAN_SCHEMA
from echodfkd.storage import RunStorage
from echodfkd.training.checkpoints import latest_checkpoint


def run_distillation(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Run (or resume) a distillation and write its report.

    Returns:
        summary.json's content, with ``report`` added: where the page lies.

    Raises:
        EchoDFKDError: one sentence; what was published until then stays.
    """
    config = with_absolute_paths(config)
    teacher_id = check_inputs(config)
    storage = open_run_folder(config, teacher_id)
    started = time.time()
    print_line(f"run {config.name}: {config.plan_slots} clips, {len(config.students)} students, folder {config.root}")
    try:
        with connected(config.ray):
            check_cluster(config)
            facts = _run_stages(config, storage, teacher_id, print_line)
    except (EchoDFKDError, KeyboardInterrupt) as error:
        reason = str(error) or "interrupted; the same command resumes it"
        finish(config, storage, teacher_id, {"wall_s": time.time() - started, "error": reason})
        raise
    facts["wall_s"] = time.time() - started
    return finish(config, storage, teacher_id, facts)


def _run_stages(
    config: RunConfig, storage: RunStorage, teacher_id: str, print_line: Callable[[str], None]
) -> dict[str, Any]:
    """Everything that runs at once, until the plan is consumed and the last checkpoint is scored."""
    board = start_board()
    wait_for_first_actor(board)
    progress = ProgressLine(config, board, print_line)
    evaluators = EvaluatorPool(config, board) if config.evaluation.enabled else None
    try:
        facts = _train(config, teacher_id, board)
        if evaluators is not None:
            print_line("training is done; the last checkpoint is being scored")
            evaluators.finish()
            evaluators.draw_overlays()
    finally:
        progress.close()
        if evaluators is not None:
            if evaluators.spans:
                rows = (vars(span) for span in evaluators.spans)
                storage.write_table(f"logs/spans-evaluators-{int(time.time())}.parquet", rows, SPAN_SCHEMA)
            evaluators.close()
    facts["peak_memory_mb"] = progress.peak_memory_mb
    return facts


def _train(config: RunConfig, teacher_id: str, board: Any) -> dict[str, Any]:
    """Block until the students have consumed the plan. Raises `RunError` with the reason where they cannot."""
    newest = latest_checkpoint(RunStorage(config.root))
    if newest is not None and newest.step >= config.train.steps:
        return {"first_step_s": None}
    started = time.time()
    try:
        build_trainer(config, teacher_id=teacher_id, board=board).fit()
    except SystemExit as leaving:  # what Ray Train makes of Ctrl-C, after it has ended its workers
        raise KeyboardInterrupt from leaving
    except TrainingFailedError as error:
        raise RunError(f"training failed after all restarts: {last_sentence(error)}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray Train leaves its own behind
    values = ray.get(board.read.remote())
    if "failed" in values:
        raise RunError(str(values["failed"]))
    return {"first_step_s": float(values["first_step_time"]) - started}


def check_inputs(config: RunConfig) -> str:
    """Load what the run needs once in the driver, before any actor starts. Returns the teacher's id.

    Raises:
        ConfigError: there is no student to train.
        InputError: a folder or a weights file cannot be used.
    """
    if not config.students:  # only a config that has clips written may do without
        raise ConfigError("students: empty, name at least one, e.g. students.c31.blocks=3 students.c31.layers=1")
    teacher = load_teacher(config, device="cpu")
    training_source(config)
    if config.evaluation.enabled:
        evaluation_source(config)
        load_judge(config.evaluation.judge)
    return teacher.teacher_id


def open_run_folder(config: RunConfig, teacher_id: str) -> RunStorage:
    """Make the run folder, or check that the one there is this very run and may be resumed.

    Raises:
        ConfigError: a run of this name exists, and is another one or must not be resumed.
        InputError: the folder cannot be written.
    """
    storage = RunStorage(config.root)
    identity = {"config_hash": config_hash(config), "teacher_id": teacher_id}
    if storage.exists("identity.json"):
        stored = json.loads(storage.read("identity.json"))
        if config.on_exists == "refuse":
            raise ConfigError(f"name: a run {config.name} exists in {config.storage} and on_exists is refuse")
        for key, value in identity.items():
            if stored.get(key) != value:
                raise ConfigError(
                    f"name: the run {config.name} in {config.storage} has another {key} ({stored.get(key)}, now"
                    f" {value}); give this run another name"
                )
        return storage
    if storage.list(""):
        raise ConfigError(f"name: {config.root} exists and is not a run folder; give this run another name")
    storage.check_writable()
    storage.write("config.yaml", config_to_yaml(config).encode())
    if not storage.create_once("identity.json", json.dumps(identity, indent=1).encode()):
        raise InputError(f"name: another process has just made the run folder {config.root}")
    return storage


def finish(config: RunConfig, storage: RunStorage, teacher_id: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Write run.json, summary.json and report.html from the rows. Returns the summary."""
    students = {
        name: {"parameters": count_parameters(build_student(**vars(student)))}
        for name, student in config.students.items()
    }
    run = {
        "name": config.name,
        "version": echodfkd.__version__,
        "config_hash": config_hash(config),
        "teacher_id": teacher_id,
        "seed": config.seed,
        "plan_slots": config.plan_slots,
        "students": students,
        "machine": machine_line(),
        **facts,
    }
    storage.replace("run.json", json.dumps(run, indent=1).encode())
    summary = write_summary(storage)
    return {**summary, "report": write_report(storage)}
