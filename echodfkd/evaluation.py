"""Score models on a set of cases: rows first, then the summary. `runtime.evaluation_run` does it on a cluster.

Models are the students of a run's checkpoint, masks that the authors' scripts wrote, and the teacher. What is left is
laid out like a run folder: ``scores/``, ``cases.parquet``, ``quarantine/``, ``config.yaml``, ``run.json`` and
``summary.json``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from echodfkd import schemas
from echodfkd.config import RunConfig
from echodfkd.config_file import config_to_yaml
from echodfkd.errors import ClipError, InputError
from echodfkd.evaluated_models import ScoredModel, against_readers, load_students, stored_masks
from echodfkd.metrics.threshold import best_code
from echodfkd.models.build import pick_device
from echodfkd.records import CaseScore, Quarantined, VideoClip
from echodfkd.reporting.summary import write_summary
from echodfkd.scoring import score_case
from echodfkd.scoring_agreement import JudgedMask, agreement_of, judge_case
from echodfkd.scoring_heads import Prediction, predict_with_teacher, score_heads
from echodfkd.scoring_judge import configured_judge, read_case
from echodfkd.scoring_truth import dice_curve, tuned
from echodfkd.storage import RunStorage
from echodfkd.synthesis.build import build_source
from echodfkd.synthesis.source import ClipSource
from echodfkd.teachers.build import build_configured_teacher
from echodfkd.training.checkpoints import code_version
from echodfkd.video.annotations import AnnotationFolder


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


class Scorers(Protocol):
    """Whoever scores cases: this process (`CaseScorer`), or actors of a cluster."""

    def describe(self) -> dict[str, Any]:
        """What `CaseScorer.describe` says."""
        ...

    def score_all(self, numbers: Sequence[int]) -> Iterator[ScoredCase]:
        """Every case, in the order of its number."""
        ...


def evaluate(
    config: RunConfig, say: Callable[[str], None], scorers: Callable[[RunConfig], Scorers] | None = None
) -> dict[str, Any]:
    """Score everything that ``config.evaluate`` names and write the rows; returns the summary.

    Args:
        config: what to score, on which cases.
        say: takes a line per case.
        scorers: makes whoever scores; None scores in this process.

    Raises:
        InputError: nothing is named, the folder holds scores already, or an input cannot be used.
    """
    options = config.evaluate
    if not options.out or not (options.run or options.masks or options.teacher):
        raise InputError(
            "evaluate: name a folder to write (evaluate.out), and evaluate.run, evaluate.masks or evaluate.teacher=true"
        )
    storage = RunStorage(options.out)
    if storage.list("scores") or storage.exists("identity.json"):
        raise InputError(f"evaluate.out: {options.out} holds scores or a run already; name another folder")
    count = len(_case_numbers(config, evaluation_cases(config)))
    team = (scorers or CaseScorer)(config)
    known = team.describe()
    storage.write("config.yaml", config_to_yaml(replace(config, students=known["students"])).encode())
    cases: list[dict[str, object]] = []
    judged: list[JudgedMask] = []
    for number, found in enumerate(team.score_all(range(count))):
        if found.bad is not None:
            schemas.write_records(storage, f"quarantine/part-cases-{number:06d}.parquet", [found.bad])
            continue
        assert found.case is not None
        cases.append(found.case)
        judged += found.judged
        schemas.write_records(storage, f"scores/part-{number:06d}.parquet", found.scores)
        say(f"case {number + 1} of {count}: {found.clip_id}, {len(found.scores)} scores")
    if not cases:
        raise InputError(f"evaluation.source: none of its {count} cases can be used; see {options.out}/quarantine")
    storage.write_table("cases.parquet", cases, schemas.CASE_SCHEMA)
    if options.agreement:
        study = agreement_of(known["judge_id"], judged, seed=config.seed).to_json()
        storage.write("agreement.json", (json.dumps(study, indent=1, allow_nan=False) + "\n").encode())
    storage.write("run.json", json.dumps(known["facts"]).encode())
    return write_summary(storage)


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
