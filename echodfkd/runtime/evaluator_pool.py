"""The evaluators: an actor pool that scores published checkpoints while training goes on.

consumes: manifests under checkpoints/ / produces: scores/part-*, cases.parquet, overlays/, spans of work
waits for: a free actor / unblocked by: a published manifest. Only the end of the run waits for it.

Ray Train and Ray Data do not count the actors: on one node they reserve no CPU and yield, else have their own nodes.
The driver holds the pool, so imports of scores and drawings are inside the functions that need them.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.errors import EchoDFKDError, RunError
from echodfkd.core.records import PublishedCheckpoint, StageSpan
from echodfkd.reporting.rows import DRAWN, read_rows
from echodfkd.runtime.cluster.connection import actor_name, last_sentence, node_labels
from echodfkd.runtime.stream.builders import num_cases
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import list_checkpoints
from echodfkd.storage.schemas import CASE_SCHEMA, QUARANTINE_SCHEMA, SCORE_SCHEMA

if TYPE_CHECKING:
    from echodfkd.evaluation.scored_models import ScoredModel

SHARD_CASES = 8
"""Cases of one task: small enough that an actor's death costs seconds."""

MAX_TRIES = 4
"""Times one task is given out before the evaluation counts as failed."""


@dataclass(frozen=True)
class ScoringTask:
    """Cases to score with one student of one checkpoint, or with the teacher (``checkpoint`` None)."""

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
        """Name of the file with the rows of all its shards: a run of weeks has one per checkpoint and student."""
        who = f"step{self.step:08d}-{self.student}" if self.checkpoint else "teacher"
        return f"scores/part-{who}.parquet"


class Evaluator:
    """One evaluator: a `CaseScorer` in a process of its own, and the student that it scored last."""

    def __init__(self, config: RunConfig) -> None:
        if not config.evaluation.num_cpus and hasattr(os, "nice"):
            os.nice(10)  # shares its cores with training, which goes first, before these imports too
        import torch

        from echodfkd.evaluation.scorer import run_scorer

        if not config.evaluation.num_gpus:
            torch.set_num_threads(config.evaluation.threads)
        self.config = config
        self.storage = RunStorage(config.root)
        self.device = "cuda" if config.evaluation.num_gpus and torch.cuda.is_available() else "cpu"
        self.scorer = run_scorer(config, self.device)
        self.name = actor_name("evaluator")
        self._student: ScoredModel | None = None

    def score(self, task: ScoringTask) -> dict[str, Any]:
        """Score one task. Returns rows (dictionaries of `CaseScore`), case rows, quarantine rows and the span."""
        start = clock.now()
        models = [self._load(task.checkpoint, task.student)] if task.checkpoint else []
        found = [self.scorer.score(number, models, teacher=not models) for number in task.cases]
        cases = [of.case for of in found if of.case is not None]
        span = StageSpan("evaluator", self.name, start, clock.now(), len(cases), sum(of.frames for of in found))
        return {
            "scores": [asdict(score) for of in found for score in of.scores],
            "cases": cases,
            "quarantined": [asdict(row) for of in found for row in of.quarantined],
            "span": asdict(span),
        }

    def overlay(self, checkpoint: PublishedCheckpoint, student: str, number: int) -> tuple[str, bytes]:
        """One case as MP4: contours of teacher, student and truth. Returns its name and bytes."""
        from echodfkd.reporting.figures.overlays import case_overlay

        return case_overlay(self.scorer, self._load(checkpoint, student), number)

    def _load(self, checkpoint: PublishedCheckpoint, name: str) -> ScoredModel:
        from echodfkd.evaluation.scored_models import load_student

        if self._student is None or (self._student.step, self._student.name) != (checkpoint.step, name):
            self._student = load_student(self.storage, checkpoint, name, self.config.students[name], self.device)
        return self._student


class EvaluatorPool:
    """A thread that watches manifests and hands tasks to the actors, newest checkpoint first.

    Every (checkpoint, student, shard) is scored once; a task whose actor dies is given out again.
    """

    def __init__(self, config: RunConfig, progress_actor: Any) -> None:
        self.config = config
        self.progress_actor = progress_actor
        self.storage = RunStorage(config.root)
        self.spans: list[StageSpan] = []
        self.error: Exception | None = None
        self._waiting: list[tuple[ScoringTask, int]] = []
        self._seen: set[str] = set()
        self._seen_weights: set[tuple[str, object]] = set()
        self._done = {name for name, size in self.storage.sizes("scores").items() if size}
        self._rows: dict[str, dict[int, list[dict[str, Any]]]] = {}
        """Of parts that lack a shard, by shard."""
        self._cases: dict[str, dict[str, Any]] = {}
        self._backlog = self._newest_scored = 0
        self._closing = threading.Event()
        self._actors = [self._start_actor() for _ in range(config.evaluation.actors)]
        self._thread = threading.Thread(target=self._run, name="evaluators", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Score all checkpoints published so far, then stop. Raises the error that made the evaluation fail."""
        self._closing.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def draw_overlays(self) -> None:
        """MP4 overlays of the last checkpoint: every student's worst, median and best cases (`cases_to_draw`)."""
        if not self.config.evaluation.overlays or not (published := list_checkpoints(self.storage)):
            return
        from echodfkd.reporting.page.groups import cases_to_draw

        chosen = cases_to_draw(read_rows(self.storage), self.config.evaluation.overlays)
        names: list[str] = []
        futures = [
            self._actors[number % len(self._actors)]
            .overlay.options(max_task_retries=MAX_TRIES - 1)
            .remote(published[-1], student, number)
            for student in published[-1].students
            for number in chosen.get(student, ())
        ]
        for number, future in enumerate(futures):
            self.progress_actor.update.remote({"drawings": len(futures) - number})
            try:
                name, data = ray.get(future)
            except RayActorError as error:
                raise RunError(f"an overlay failed {MAX_TRIES} times: {last_sentence(error)}") from error
            self.storage.write(name, data)
            names.append(name)
        self.progress_actor.update.remote({"drawings": 0})
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
            self.progress_actor.update.remote({"backlog": backlog})

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
        if result["quarantined"] and task.checkpoint is None:
            name = f"quarantine/part-cases-{task.shard:04d}.parquet"
            self.storage.write_table(name, result["quarantined"], QUARANTINE_SCHEMA)
        if task.checkpoint is None:
            self._cases.update({str(row["clip_id"]): row for row in result["cases"]})
            self.storage.write_table("cases.parquet", self._cases.values(), CASE_SCHEMA)
        shards = self._rows.setdefault(task.part, {})
        shards[task.shard] = result["scores"]
        whole = len(shards) == len(self._shards)
        if whole:  # after cases.parquet: a teacher whose part exists is not scored again
            rows = [row for number in sorted(shards) for row in shards[number]]
            self.storage.write_table(task.part, rows, SCORE_SCHEMA)
            del self._rows[task.part]
        self.spans.append(StageSpan(**result["span"]))
        news: dict[str, Any] = {"scored": f"step {task.step}" if task.checkpoint else "teacher"}
        if task.checkpoint is not None and whole:
            self._newest_scored = max(self._newest_scored, task.step)
            news["scored_step"] = self._newest_scored
        self.progress_actor.update.remote(news)

    def _look_for_checkpoints(self) -> None:
        for checkpoint in list_checkpoints(self.storage, known=self._seen):
            self._seen.add(checkpoint.folder)
            for student in checkpoint.students:
                weights = (student, checkpoint.files[f"{student}/student.safetensors"]["sha256"])
                if weights not in self._seen_weights:  # early stopping may have ended it: scored already
                    self._seen_weights.add(weights)
                    self._add_tasks(checkpoint, student)

    @cached_property
    def _shards(self) -> list[tuple[int, ...]]:
        """The cases, as many as one task scores at a time."""
        numbers = tuple(range(num_cases(self.config)))
        return [numbers[start : start + SHARD_CASES] for start in range(0, len(numbers), SHARD_CASES)]

    def _add_tasks(self, checkpoint: PublishedCheckpoint | None, student: str) -> None:
        tasks = [ScoringTask(checkpoint, student, shard, cases) for shard, cases in enumerate(self._shards)]
        if tasks and tasks[0].part not in self._done:
            self._waiting += [(task, 0) for task in tasks]

    def _freshest(self) -> int:
        steps = [task.step if task.checkpoint else 1 << 60 for task, _ in self._waiting]
        return steps.index(max(steps))
