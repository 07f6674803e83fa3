"""Score models on held-out cases: the same steps for a run's evaluators, for jobs/evaluate.py and for overlays.

case -> teacher's prediction -> each model's prediction -> rows of scores. Pure: no storage is written, no cluster.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.evaluate import EvaluateConfig
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import CaseScore, Quarantined, VideoClip
from echodfkd.evaluation.against_readers import against_readers, check_readers
from echodfkd.evaluation.against_truth import MetricValue, dice_curve, tuned
from echodfkd.evaluation.agreement import JudgedMask, judge_case
from echodfkd.evaluation.case import ScoringRules, score_case
from echodfkd.evaluation.judge import configured_judge, read_case
from echodfkd.evaluation.predictions import Prediction, predict_teacher
from echodfkd.evaluation.scored_models import ScoredModel, load_students, stored_masks
from echodfkd.metrics.threshold import best_code
from echodfkd.models.students.cost import student_facts
from echodfkd.models.teachers.build import pick_device
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.sources.build import build_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.video.annotations import AnnotationFolder
from echodfkd.storage import schemas
from echodfkd.storage.checkpoints import code_version
from echodfkd.teaching.build import build_configured_teacher
from echodfkd.teaching.ensemble import Ensemble
from echodfkd.teaching.placement import SourcePlacement
from echodfkd.teaching.routing import Router


@dataclass(frozen=True)
class PreparedCase:
    """A case and the teacher's prediction of it; ``fault`` says why the teacher has none, "" without a fault."""

    case: VideoClip
    teacher: Prediction | None = None
    fault: str = ""


@dataclass(frozen=True)
class ScoredCase:
    """All results of one case. A case that cannot be used has only its id and its quarantine row.

    ``case`` is its row of cases.parquet, ``frames`` its length.
    """

    clip_id: str
    scores: tuple[CaseScore, ...] = ()
    case: dict[str, object] | None = None
    frames: int = 0
    judged: tuple[JudgedMask, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


def evaluation_cases(config: RunConfig) -> ClipSource:
    """The source of the cases to score."""
    source, frames = config.evaluation.source, config.evaluation.frames
    return build_source(source, config.window, seed=config.seed, case_frames=frames, option="evaluation.source")


def case_numbers(config: RunConfig, source: ClipSource) -> range:
    """Cases to score; those to tune thresholds on come after them. Raises `InputError` if none is left to score."""
    available, wanted, tuning = source.num_cases, config.evaluation.cases, config.evaluate.tune_cases
    if available is None:
        return range(wanted)
    if tuning and available <= tuning:
        raise InputError(f"evaluate.tune_cases: got {tuning}, but evaluation.source has {available} cases in all")
    return range(min(wanted, available - tuning))


def _router(config: RunConfig, teacher: Teacher | None) -> Router:
    """Finds the members that teach a case; without a teacher none do."""
    route = config.teacher.route
    if not isinstance(teacher, Ensemble):
        return Router()
    gates = [member.teacher for member in teacher.members if member.name == route.gate]
    return Router(route, (lambda: gates[0]) if gates else None)


def run_scorer(config: RunConfig, device: str) -> CaseScorer:
    """The scorer of a run's own checkpoints: every class and task that its teacher teaches, nothing of `evaluate`."""
    return CaseScorer(
        replace(config, evaluate=EvaluateConfig()),
        device,
        classes=config.taught_classes,
        tasks=config.taught_tasks,
        keep_cases=True,
    )


class CaseScorer:
    """Source of cases, teacher and judge of a config, loaded once to score any model on any case.

    Args:
        config: ``evaluation`` and ``teacher``, and of ``evaluate`` whether to score a teacher, the readers'
            annotations and the study of agreement.
        device: cpu or cuda, of teacher and judge.
        classes: asked of the teacher.
        tasks: likewise.
        keep_cases: keep all cases and the teacher's predictions of them for the next model.

    Raises:
        InputError: the source, teacher, judge or annotations cannot be used.
    """

    def __init__(
        self,
        config: RunConfig,
        device: str,
        *,
        classes: Sequence[str] = ("LV",),
        tasks: Sequence[str] = (),
        keep_cases: bool = False,
    ) -> None:
        self.source = source = evaluation_cases(config)
        self.judge = configured_judge(config.evaluation, device)
        self.teacher_id = ""
        self._teacher, self._classes, self._tasks = None, classes, tasks
        if config.evaluate.teacher:
            placement = SourcePlacement(lambda clip: source)  # all its clips are cases
            self._teacher = build_configured_teacher(
                config.teacher, device=device, placement=placement, window=config.window
            )
            self.teacher_id = self._teacher.teacher_id
            self._classes = [name for name in classes if name in self._teacher.class_names]
        options, self._router = config.evaluation, _router(config, self._teacher)
        self._rules = ScoringRules(self.teacher_id, options.threshold, self.judge, options.judge_controls)
        self._annotations = AnnotationFolder(config.evaluate.annotations) if config.evaluate.annotations else None
        if self._annotations is not None:
            check_readers(self._annotations, source)
        self._agreement = config.evaluate.agreement
        self._codes: dict[tuple[str, int], int] = {}
        self.prepare = functools.lru_cache(None if keep_cases else 1)(self._prepare)

    def score(self, number: int, models: Iterable[ScoredModel], *, teacher: bool) -> ScoredCase:
        """Score models on one case; with ``teacher`` also the teacher, and the judge's reading of the video."""
        clip_id = f"{self.source.name}-case{number}"
        try:
            prepared = self.prepare(number)
            clip_id = prepared.case.clip_id
            return self._score(number, prepared, models, teacher=teacher)
        except ClipError as error:
            clip_id = getattr(error, "clip_id", clip_id)
            return ScoredCase(clip_id, quarantined=(Quarantined(-1, number, clip_id, "evaluator", str(error)),))

    def _score(
        self, number: int, prepared: PreparedCase, models: Iterable[ScoredModel], *, teacher: bool
    ) -> ScoredCase:
        """Raises `ClipError` if a model cannot use the case, or a reader's tracing of it is at fault."""
        found = [(model, model.predict(prepared.case)) for model in models]
        case = prepared.case
        rows = [row for model, prediction in found for row in self._score_model(model, prediction, prepared)]
        masks = {model.label: prediction.lv_prob > self._rules.threshold for model, prediction in found}
        if teacher and prepared.teacher is not None:
            further = self._readers(prepared.teacher, case)
            rows += score_case(prepared.teacher, case, self._rules, further=further)
            masks["teacher"] = prepared.teacher.lv_prob > self._rules.threshold
        if teacher:
            rows += read_case(self.judge, case, teacher_id=self.teacher_id)
        judged: list[JudgedMask] = []
        if self._agreement:
            assert self.judge is not None
            judged = judge_case(self.judge, case, masks)
        quarantined = [Quarantined(-1, number, case.clip_id, "teacher", prepared.fault)] if prepared.fault else []
        return ScoredCase(
            case.clip_id,
            tuple(rows),
            {**schemas.case_row(case), "route": case.route},
            len(case.video),
            tuple(judged),
            tuple(quarantined),
        )

    def masks(self, model: ScoredModel, number: int) -> tuple[VideoClip, np.ndarray, np.ndarray | None]:
        """One case, and the masks (T, H, W) of a model and of the teacher (None if it has none). Raises `ClipError`."""
        prepared = self.prepare(number)
        of_teacher = None if prepared.teacher is None else prepared.teacher.lv_prob > self._rules.threshold
        return prepared.case, model.predict(prepared.case).lv_prob > self._rules.threshold, of_teacher

    def tune(self, models: Sequence[ScoredModel], numbers: range) -> None:
        """Choose the best threshold of every model on these cases, for ``tuned_dice_*``.

        Raises:
            InputError: none of the cases has truth.
        """
        curves: dict[tuple[str, int], list[np.ndarray]] = {(model.name, model.step): [] for model in models}
        for number in numbers:
            with contextlib.suppress(ClipError):  # a case that cannot be used has no curve
                case = self.source.case(number)
                for model in models:
                    curves[model.name, model.step] += dice_curve(model.predict(case).lv_prob, case)
        if empty := [name for (name, _), found in curves.items() if not found]:
            raise InputError(
                f"evaluate.tune_cases: none of the {len(numbers)} cases from number {numbers.start} has truth to tune"
                f" the threshold of {empty[0]} on"
            )
        self._codes = {model: best_code(found) for model, found in curves.items()}

    def _prepare(self, number: int) -> PreparedCase:
        case = self.source.case(number)
        case = replace(case, route=self._router(case))
        if self._teacher is None:
            return PreparedCase(case)
        try:
            return PreparedCase(case, predict_teacher(self._teacher, case, classes=self._classes, tasks=self._tasks))
        except ClipError as error:
            return PreparedCase(case, fault=str(error))

    def _score_model(self, model: ScoredModel, prediction: Prediction, prepared: PreparedCase) -> list[CaseScore]:
        further = self._readers(prediction, prepared.case)
        if (model.name, model.step) in self._codes:
            further += tuned(prediction.lv_prob, prepared.case, code=self._codes[model.name, model.step])
        return score_case(
            prediction,
            prepared.case,
            self._rules,
            student=model.name,
            step=model.step,
            teacher=prepared.teacher,
            further=further,
        )

    def _readers(self, prediction: Prediction, case: VideoClip) -> list[MetricValue]:
        if self._annotations is None:
            return []
        return against_readers(prediction.lv_prob > self._rules.threshold, case, self._annotations)


class ModelScorer:
    """Every model that ``config.evaluate`` names, loaded once, with the `CaseScorer` that scores them.

    Raises:
        InputError: a model, the judge or the source cannot be used.
    """

    def __init__(self, config: RunConfig) -> None:
        device = pick_device(config.teacher.device, "teacher.device")
        students, self._students = load_students(config.evaluate, device)
        taught = replace(config, students=self._students)
        self._scorer = CaseScorer(config, device, classes=taught.taught_classes, tasks=taught.taught_tasks)
        self._models = [*students, *stored_masks(config.evaluate, self._scorer.source)]
        if count := config.evaluate.tune_cases:
            first = len(case_numbers(config, self._scorer.source))
            self._scorer.tune(self._models, range(first, first + count))

    def describe(self) -> dict[str, Any]:
        """``students`` (their options), ``ids`` (of teacher, judge, and the models' weights), and ``facts``.

        The last is the content of run.json with an empty plan.
        """
        judge, sizes = self._scorer.judge, {name: student_facts(of.network) for name, of in self._students.items()}
        return {
            "students": self._students,
            "ids": {
                "teacher_id": self._scorer.teacher_id,
                "judge_id": judge.judge_id if judge is not None else "",
                "models": {model.label: model.weights_id for model in self._models},
            },
            "facts": {**code_version(), "teacher_id": self._scorer.teacher_id, "students": sizes, "plan_slots": 0},
        }

    def score_all(self, numbers: Sequence[int]) -> Iterator[ScoredCase]:
        """The results of every case, in the order of its number."""
        return map(self.score, numbers)

    def score(self, number: int) -> ScoredCase:
        """The results of every model, and of the teacher, on one case."""
        return self._scorer.score(number, self._models, teacher=True)
