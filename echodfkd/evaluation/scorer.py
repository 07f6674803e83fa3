"""Score models on a set of cases: rows first, then the summary. `runtime.evaluation_run` does it on a cluster.

Models are the students of a run's checkpoint, masks that the authors' scripts wrote, and the teacher. What is left is
laid out like a run folder: ``scores/``, ``cases.parquet``, ``quarantine/``, ``config.yaml``, ``run.json`` and
``summary.json``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import CaseScore, Quarantined, VideoClip
from echodfkd.evaluation.against_truth import dice_curve, tuned
from echodfkd.evaluation.agreement import JudgedMask, judge_case
from echodfkd.evaluation.case import score_case
from echodfkd.evaluation.heads import Prediction, predict_with_teacher, score_heads
from echodfkd.evaluation.judge import configured_judge, read_case
from echodfkd.evaluation.models import ScoredModel, against_readers, load_students, stored_masks
from echodfkd.metrics.threshold import best_code
from echodfkd.models.teachers.build import pick_device
from echodfkd.sources.build import build_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.video.annotations import AnnotationFolder
from echodfkd.storage import schemas
from echodfkd.storage.checkpoints import code_version
from echodfkd.teaching.build import build_configured_teacher


@dataclass(frozen=True)
class ScoredCase:
    """All that was found of one case; ``bad`` is why it could not be used, and then there is nothing else.

    ``case`` is its row of cases.parquet.
    """

    clip_id: str
    scores: tuple[CaseScore, ...] = ()
    case: dict[str, object] | None = None
    judged: tuple[JudgedMask, ...] = ()
    bad: Quarantined | None = None


def evaluation_cases(config: RunConfig) -> ClipSource:
    """The source of the cases to score."""
    return build_source(config.evaluation.source, config.window, seed=config.seed, case_frames=config.evaluation.frames)


def _case_numbers(config: RunConfig, source: ClipSource) -> range:
    """Cases to score; those to tune thresholds on come after them."""
    available, wanted, tuning = source.num_cases, config.evaluation.cases, config.evaluate.tune_cases
    if available is None:
        return range(wanted)
    if tuning and available <= tuning:
        raise InputError(f"evaluate.tune_cases: got {tuning}, but evaluation.source has {available} cases in all")
    return range(min(wanted, available - tuning))


class CaseScorer:
    """The models and the judge, loaded once, that score one case after the other.

    Raises:
        InputError: a model, the judge or the source cannot be used.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._source = evaluation_cases(config)
        device = pick_device(config.teacher.device, "teacher.device")
        self._teacher = build_configured_teacher(config.teacher, device=device) if config.evaluate.teacher else None
        models, self._students, self._sizes = load_students(config, device)
        self._models = [*models, *stored_masks(config)]
        self._judge = configured_judge(config.evaluation, device)
        if config.evaluate.agreement and self._judge is None:
            raise InputError("evaluate.agreement: set, but evaluation.judge is none")
        self._annotations = AnnotationFolder(config.evaluate.annotations) if config.evaluate.annotations else None
        self._codes = self._tune() if config.evaluate.tune_cases else {}

    def describe(self) -> dict[str, Any]:
        """``students``, ``judge_id``, and ``facts``: what no row tells, as a run's run.json has it.

        Nothing was trained: the plan is empty.
        """
        teacher_id = self._teacher.teacher_id if self._teacher is not None else ""
        sizes = {name: {"parameters": size} for name, size in self._sizes.items()}
        return {
            "students": self._students,
            "judge_id": self._judge.judge_id if self._judge is not None else "",
            "facts": {**code_version(), "teacher_id": teacher_id, "students": sizes, "plan_slots": 0},
        }

    def score_all(self, numbers: Sequence[int]) -> Iterator[ScoredCase]:
        """Every case, in the order of its number."""
        return map(self.score, numbers)

    def score(self, number: int) -> ScoredCase:
        """All that can be said of one case by every model."""
        try:
            case = self._source.case(number)
            found = [(model, model.predict(case)) for model in self._models]
        except ClipError as error:
            clip_id = getattr(error, "clip_id", f"{self._source.name}-case{number}")
            return ScoredCase(clip_id, bad=Quarantined(-1, number, clip_id, "evaluator", str(error)))
        teacher_id, against = "", None
        if self._teacher is not None:
            teacher_id = self._teacher.teacher_id
            against = predict_with_teacher(self._teacher, case, classes=("LV",), tasks=())
            found.append((ScoredModel("", -1, lambda _: against), against))
        rows = [row for model, seen in found for row in self._score_model(model, seen, case, teacher_id, against)]
        rows += read_case(self._judge, case, teacher_id=teacher_id)
        judged: list[JudgedMask] = []
        if self._config.evaluate.agreement:
            assert self._judge is not None
            threshold = self._config.evaluation.threshold
            judged = judge_case(self._judge, case, {_label(model): seen.lv_prob > threshold for model, seen in found})
        return ScoredCase(case.clip_id, tuple(rows), schemas.case_row(case), tuple(judged))

    def _tune(self) -> dict[tuple[str, int], int]:
        """The best code of every student's masks on the cases behind the scored ones."""
        first = len(_case_numbers(self._config, self._source))
        curves: dict[tuple[str, int], list[np.ndarray]] = {(model.name, model.step): [] for model in self._models}
        for number in range(first, first + self._config.evaluate.tune_cases):
            with contextlib.suppress(ClipError):  # a case that cannot be used tells nothing
                case = self._source.case(number)
                for model in self._models:
                    curves[model.name, model.step] += dice_curve(model.predict(case).lv_prob, case)
        if empty := [name for (name, _), found in curves.items() if not found]:
            raise InputError(
                f"evaluate.tune_cases: none of the {self._config.evaluate.tune_cases} cases from number {first} has"
                f" truth to tune the threshold of {empty[0]} on"
            )
        return {model: best_code(found) for model, found in curves.items()}

    def _score_model(
        self, model: ScoredModel, seen: Prediction, case: VideoClip, teacher_id: str, against: Prediction | None
    ) -> list[CaseScore]:
        threshold = self._config.evaluation.threshold
        further = score_heads(seen, case, threshold=threshold, who=model.name or f"teacher {teacher_id}")
        if self._annotations is not None:
            further += against_readers(seen.lv_prob > threshold, case, self._annotations)
        if (model.name, model.step) in self._codes:
            further += tuned(seen.lv_prob, case, code=self._codes[model.name, model.step])
        return score_case(
            seen.lv_prob,
            case,
            threshold=threshold,
            judge=self._judge,
            teacher_id=teacher_id,
            student=model.name,
            step=model.step,
            teacher_prob=against.lv_prob if against is not None and model.name else None,
            further=further,
            judge_controls=self._config.evaluation.judge_controls,
        )


def _label(model: ScoredModel) -> str:
    """Name of a model in the agreement study, which may hold many checkpoints of a student."""
    return f"{model.name}@{model.step}" if model.step > 0 else model.name or "teacher"
