"""The evaluators: an actor pool that scores published checkpoints while training goes on.

consumes: manifests under checkpoints/ / produces: scores/part-*, cases.parquet, overlays/, spans of work
waits for: a free actor / unblocked by: a published manifest. Nothing waits for it but the end of the run.

Ray Train and Ray Data do not count the actors: on one node they reserve no CPU and yield, else have their own nodes.
(A little over 300 lines: the actor and the pool that feeds it share their task and its rows.)
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.errors import ClipError, EchoDFKDError, InputError, RunError
from echodfkd.core.records import CaseScore, PublishedCheckpoint, Quarantined, StageSpan, VideoClip
from echodfkd.evaluation.case import score_case
from echodfkd.evaluation.heads import Prediction, predict_with_heads, predict_with_teacher, score_heads
from echodfkd.evaluation.judge import configured_judge, read_case
from echodfkd.models.students.build import build_student
from echodfkd.models.students.weights import load_weights
from echodfkd.reporting.figures.overlays import DRAWN, overlay_mp4
from echodfkd.reporting.page.groups import cases_to_draw
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.cluster.connection import actor_name, last_sentence, node_labels
from echodfkd.runtime.stream.parts import evaluation_source, load_teacher, num_cases
from echodfkd.storage.checkpoints import read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import list_checkpoints
from echodfkd.storage.schemas import CASE_SCHEMA, QUARANTINE_SCHEMA, SCORE_SCHEMA, case_row

SHARD_CASES = 8
"""Cases of one task: small enough that an actor's death costs seconds."""

MAX_TRIES = 4
"""Times one task is given out before the evaluation counts as failed."""


@dataclass(frozen=True)
class ScoringTask:
    """Score these cases with one student of one checkpoint, or with the teacher (``checkpoint`` None)."""

    checkpoint: PublishedCheckpoint | None
    student: str
    shard: int
    cases: tuple[int, ...]

    @property
    def step(self) -> int:
        """Step of the checkpoint, -1 for the teacher."""
        return self.checkpoint.step if self.checkpoint else -1

    @property
    def part(self) -> str:
        """Name of the rows' file: a task done twice writes the same one."""
        who = f"step{self.step:08d}-{self.student}" if self.checkpoint else "teacher"
        return f"scores/part-{who}-{self.shard:04d}.parquet"


class Evaluator:
    """One evaluator: holds the cases it has made, the teacher's masks for them, and the judge."""

    def __init__(self, config: RunConfig) -> None:
        if not config.evaluation.num_gpus:
            torch.set_num_threads(config.evaluation.threads)
        if not config.evaluation.num_cpus and hasattr(os, "nice"):
            os.nice(10)  # shares its cores with training, which goes first
        self.config = config
        self.storage = RunStorage(config.root)
        self.device = "cuda" if config.evaluation.num_gpus and torch.cuda.is_available() else "cpu"
        self.source = evaluation_source(config)
        self.judge = configured_judge(config.evaluation, self.device)
        self.teacher = load_teacher(config, device=self.device)
        self.name = actor_name("evaluator")
        self._cases: dict[int, VideoClip] = {}
        self._of_teacher: dict[int, Prediction | None] = {}
        self._untaught: dict[int, str] = {}
        self._network: tuple[tuple[int, str], torch.nn.Module] | None = None

    def score(self, task: ScoringTask) -> dict[str, Any]:
        """Score one task. Returns rows (dictionaries of `CaseScore`), case rows, quarantine rows and the span."""
        start = clock.now()
        scores: list[CaseScore] = []
        cases = []
        quarantined = []
        frames = 0
        for number in task.cases:
            try:
                case = self._case(number)
            except ClipError as error:
                clip_id = getattr(error, "clip_id", f"{self.source.name}-case{number}")
                quarantined.append(asdict(Quarantined(-1, number, clip_id, "evaluator", str(error))))
                continue
            frames += len(case.video)
            cases.append(case_row(case))
            scores.extend(self._score_case(task, number, case))
            if reason := self._untaught.get(number):
                quarantined.append(asdict(Quarantined(-1, number, case.clip_id, "teacher", reason)))
            if task.checkpoint is None:
                scores.extend(read_case(self.judge, case, teacher_id=self.teacher.teacher_id))
        span = StageSpan("evaluator", self.name, start, clock.now(), len(cases), frames)
        return {
            "scores": [asdict(score) for score in scores],
            "cases": cases,
            "quarantined": quarantined,
            "span": asdict(span),
        }

    def overlay(self, checkpoint: PublishedCheckpoint, student: str, number: int) -> tuple[str, bytes]:
        """One case as MP4: contours of teacher, student and truth. Returns its name and bytes."""
        case = self._case(number)
        level = self.config.evaluation.threshold
        mask, taught = self._students(checkpoint, student, case).lv_prob > level, self._teachers(number)
        video = overlay_mp4(case, mask, taught.lv_prob > level if taught is not None else None)
        return f"overlays/{student}-{number:04d}.mp4", video

    def _score_case(self, task: ScoringTask, number: int, case: VideoClip) -> list[CaseScore]:
        threshold, taught = self.config.evaluation.threshold, self._teachers(number)
        if task.checkpoint is None:
            if taught is None:
                return []
            found, against, who = taught, None, f"teacher {self.teacher.teacher_id}"
        else:
            found, against = self._students(task.checkpoint, task.student, case), taught
            who = f"student {task.student} at step {task.step}"
        return score_case(
            found.lv_prob,
            case,
            threshold=threshold,
            judge=self.judge,
            teacher_id=self.teacher.teacher_id,
            student=task.student,
            step=task.step,
            teacher_prob=against.lv_prob if against else None,
            further=score_heads(found, case, threshold=threshold, who=who, teacher=against),
            judge_controls=self.config.evaluation.judge_controls,
        )

    def _case(self, number: int) -> VideoClip:
        if number not in self._cases:
            self._cases[number] = self.source.case(number)
        return self._cases[number]

    def _teachers(self, number: int) -> Prediction | None:
        """None where it has no mask of this case: students are then scored without it."""
        if number not in self._of_teacher:
            classes, tasks, case = self.config.taught_classes, self.config.taught_tasks, self._case(number)
            try:
                self._of_teacher[number] = predict_with_teacher(self.teacher, case, classes=classes, tasks=tasks)
            except ClipError as error:
                self._of_teacher[number], self._untaught[number] = None, str(error)
        return self._of_teacher[number]

    def _students(self, checkpoint: PublishedCheckpoint, student: str, case: VideoClip) -> Prediction:
        key = (checkpoint.step, student)
        if self._network is None or self._network[0] != key:
            network = build_student(**self.config.students[student].network)
            weights = read_student(self.storage, checkpoint, student)
            load_weights(network, weights, what=f"{checkpoint.folder}/{student}")
            self._network = (key, network.to(self.device).eval())
        wanted = self.config.students[student].classes
        return predict_with_heads(self._network[1], case.video, classes=wanted, device=self.device)


class EvaluatorPool:
    """A thread that watches manifests and hands tasks to the actors, newest checkpoint first.

    Every (checkpoint, student, shard) is scored once; a task whose actor dies is given out again.
    """

    def __init__(self, config: RunConfig, board: Any) -> None:
        self.config = config
        self.board = board
        self.storage = RunStorage(config.root)
        self.spans: list[StageSpan] = []
        self.error: Exception | None = None
        self._waiting: list[tuple[ScoringTask, int]] = []
        self._seen: set[str] = set()
        self._seen_weights: set[tuple[str, object]] = set()
        self._done: set[str] = {name for name in self.storage.list("scores") if self._is_whole(name)}
        self._cases: dict[str, dict[str, Any]] = {}
        self._backlog = self._newest_scored = 0
        self._closing = threading.Event()
        self._actors = [self._start_actor() for _ in range(config.evaluation.actors)]
        self._thread = threading.Thread(target=self._run, name="evaluators", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Score what is published by now, then stop. Raises what made the evaluation fail."""
        self._closing.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def draw_overlays(self) -> None:
        """MP4 overlays of the last checkpoint: every student's worst, median and best cases (`cases_to_draw`)."""
        if not self.config.evaluation.overlays or not (published := list_checkpoints(self.storage)):
            return
        chosen = cases_to_draw(read_rows(self.storage), self.config.evaluation.overlays)
        names: list[str] = []
        futures = [
            self._actors[number % len(self._actors)]
            .overlay.options(max_task_retries=MAX_TRIES - 1)
            .remote(published[-1], student, number)
            for student in published[-1].students
            for number in chosen.get(student, ())
        ]
        for future in futures:
            try:
                name, data = ray.get(future)
            except RayActorError as error:
                raise RunError(f"an overlay failed {MAX_TRIES} times: {last_sentence(error)}") from error
            self.storage.write(name, data)
            names.append(name)
        self.storage.write(DRAWN, json.dumps({"step": published[-1].step, "names": names}).encode())

    def close(self) -> None:
        """End the actors."""
        self._closing.set()
        for actor in self._actors:
            ray.kill(actor)

    def _start_actor(self) -> Any:
        wanted = self.config.evaluation
        options: dict[str, Any] = {"num_cpus": wanted.num_cpus, "num_gpus": wanted.num_gpus, "max_restarts": -1}
        if wanted.node_label:
            options["label_selector"] = node_labels(wanted.node_label)
        return ray.remote(Evaluator).options(**options).remote(self.config)

    def _run(self) -> None:
        try:
            self._add_tasks(None, "")
            busy: dict[Any, tuple[Any, ScoringTask | None, int]] = {}  # None: an actor that is started again
            idle = list(self._actors)
            while True:
                last_look = self._closing.is_set()
                self._look_for_checkpoints()
                while idle and self._waiting:
                    actor = idle.pop()
                    task, tries = self._waiting.pop(self._freshest())
                    busy[actor.score.remote(task)] = (actor, task, tries)
                backlog = sum(task is not None for _, task, _ in busy.values()) + len(self._waiting)
                self._tell_backlog(backlog)
                if not backlog and last_look:
                    return
                self._collect(busy, idle)
        except RayTaskError as error:  # its text is a traceback, that of what was raised there a sentence
            self.error = error.cause if isinstance(error.cause, EchoDFKDError) else error
        except Exception as error:
            self.error = error

    def _tell_backlog(self, backlog: int) -> None:
        if backlog != self._backlog:
            self._backlog = backlog
            self.board.update.remote({"backlog": backlog})

    def _collect(self, busy: dict[Any, tuple[Any, ScoringTask | None, int]], idle: list[Any]) -> None:
        ready, _ = ray.wait(list(busy), timeout=1.0) if busy else ([], [])
        if not busy:
            self._closing.wait(1.0)
        for future in ready:
            actor, task, tries = busy.pop(future)
            try:
                result = ray.get(future)
            except RayActorError as error:
                if task is None:
                    raise RunError(f"an evaluator cannot be started again: {last_sentence(error)}") from error
                if tries + 1 >= MAX_TRIES:
                    raise RunError(f"{task.part} failed {MAX_TRIES} times: {last_sentence(error)}") from error
                self._waiting.append((task, tries + 1))
                # Until it runs again, elsewhere where its node is gone, it would refuse every task at once.
                busy[actor.__ray_ready__.options(max_task_retries=-1).remote()] = (actor, None, 0)
                continue
            idle.append(actor)
            if task is not None:
                self._store(task, result)

    def _store(self, task: ScoringTask, result: dict[str, Any]) -> None:
        self.storage.write_table(task.part, result["scores"], SCORE_SCHEMA)
        if result["quarantined"] and task.checkpoint is None:
            name = f"quarantine/part-cases-{task.shard:04d}.parquet"
            self.storage.write_table(name, result["quarantined"], QUARANTINE_SCHEMA)
        if task.checkpoint is None:
            self._cases.update({str(row["clip_id"]): row for row in result["cases"]})
            self.storage.write_table("cases.parquet", self._cases.values(), CASE_SCHEMA)
        self.spans.append(StageSpan(**result["span"]))
        news: dict[str, Any] = {"scored": f"step {task.step}" if task.checkpoint else "teacher"}
        if task.checkpoint is not None:
            self._newest_scored = max(self._newest_scored, task.step)
            news["scored_step"] = self._newest_scored
        self.board.update.remote(news)

    def _look_for_checkpoints(self) -> None:
        for checkpoint in list_checkpoints(self.storage, known=self._seen):
            self._seen.add(checkpoint.folder)
            for student in checkpoint.students:
                weights = (student, checkpoint.files[f"{student}/student.safetensors"]["sha256"])
                if weights not in self._seen_weights:  # early stopping may have ended it: scored already
                    self._seen_weights.add(weights)
                    self._add_tasks(checkpoint, student)

    def _is_whole(self, name: str) -> bool:
        """Whether a part of an earlier start can be read: version 0.1 could leave a torn one on a disk."""
        try:
            self.storage.read_table(name)
        except InputError:
            return False
        return True

    def _add_tasks(self, checkpoint: PublishedCheckpoint | None, student: str) -> None:
        numbers: Sequence[int] = range(num_cases(self.config))
        for shard, start in enumerate(range(0, len(numbers), SHARD_CASES)):
            task = ScoringTask(checkpoint, student, shard, tuple(numbers[start : start + SHARD_CASES]))
            if task.part not in self._done or checkpoint is None:
                self._waiting.append((task, 0))

    def _freshest(self) -> int:
        steps = [task.step if task.checkpoint else 1 << 60 for task, _ in self._waiting]
        return steps.index(max(steps))
