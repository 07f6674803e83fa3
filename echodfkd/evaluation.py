"""Score models on a set of cases: rows first, then the summary. `runtime.evaluation_run` does it on a cluster.

Models are the students of a run's checkpoint, masks that the authors' scripts wrote, and the teacher. What is left is
laid out like a run folder: ``scores/``, ``cases.parquet``, ``quarantine/``, ``config.yaml``, ``run.json`` and
``summary.json``.

Legend: A annotators, T frames, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from echodfkd import schemas
from echodfkd.config import RunConfig, StudentConfig
from echodfkd.config_evaluate import EVERY_STEP
from echodfkd.config_file import config_from_dict, config_to_yaml
from echodfkd.errors import ClipError, InputError
from echodfkd.metrics.annotators import against_annotators, pairwise_dice
from echodfkd.metrics.threshold import best_code
from echodfkd.models.build import build_student, pick_device
from echodfkd.models.convlstm import count_parameters
from echodfkd.object_store import open_filesystem
from echodfkd.records import CaseScore, Quarantined, VideoClip
from echodfkd.reporting.summary import write_summary
from echodfkd.scoring import score_case
from echodfkd.scoring_agreement import JudgedMask, agreement_of, judge_case
from echodfkd.scoring_heads import Prediction, predict_with_heads, predict_with_teacher, score_heads
from echodfkd.scoring_judge import configured_judge, read_case
from echodfkd.scoring_truth import Measured, dice_curve, tuned
from echodfkd.storage import RunStorage, read_inside
from echodfkd.synthesis.build import build_source
from echodfkd.synthesis.source import ClipSource
from echodfkd.teachers.build import build_configured_teacher
from echodfkd.teachers.mask_files import decode_npz
from echodfkd.training.checkpoints import code_version, list_checkpoints, read_student
from echodfkd.training.engine import load_weights
from echodfkd.untrusted import parse_yaml
from echodfkd.video.annotations import AnnotationFolder
from echodfkd.video.decode import MAX_VIDEO_BYTES
from echodfkd.video.windows import resize_labels, resize_video

ANNOTATED_SIDE = 112
"""Frames that the authors' tracings and masks belong to have 112 x 112 pixels, as all of EchoNet-Dynamic."""
MASKS_NAME = "masks"
"""Name of the model behind ``evaluate.masks``."""
_RECORDED = re.compile(r"recorded-(?P<name>.+)-s-?\d+-case-w\d+")


@dataclass(frozen=True)
class ScoredModel:
    """Something that predicts cases. ``step`` is its checkpoint's, -1 for the teacher, 0 where there is none."""

    name: str
    step: int
    predict: Callable[[VideoClip], Prediction]


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
        self._models = [*models, *_stored_masks(config)]
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
            further += _against_readers(seen.lv_prob > threshold, case, self._annotations)
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


def load_students(config: RunConfig, device: str) -> tuple[list[ScoredModel], dict[str, StudentConfig], dict[str, int]]:
    """The students of ``evaluate.run``'s checkpoints, as its own config built them; their options; sizes."""
    if not config.evaluate.run:
        return [], {}, {}
    storage, wanted = RunStorage(config.evaluate.run), config.evaluate.step
    commits = [c for c in list_checkpoints(storage) if wanted in (EVERY_STEP, 0, c.step)]
    if not commits:
        said = f"of step {wanted}" if wanted > 0 else "at all"
        raise InputError(f"evaluate.run: {storage.root} holds no published checkpoint {said} (evaluate.step)")
    where = f"{storage.root}/config.yaml"
    try:
        values = parse_yaml(storage.read("config.yaml"), where)
    except FileNotFoundError as error:
        raise InputError(f"evaluate.run: {storage.root} holds no config.yaml") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold `key: value` lines, got a {type(values).__name__}")
    known = config_from_dict(values).students
    models, sizes = [], {}
    for checkpoint in commits if wanted == EVERY_STEP else commits[-1:]:
        for name in checkpoint.students:
            if name not in known:
                raise InputError(f"{where} has no student {name!r}, but the checkpoint has")
            network = build_student(**asdict(known[name]))
            weights = read_student(storage, checkpoint, name)
            load_weights(network, weights, what=f"{storage.root}/{checkpoint.folder}/{name}")
            models.append(ScoredModel(name, checkpoint.step, _runner(network, known[name].classes, device)))
            sizes[name] = count_parameters(network)
    return models, {name: known[name] for name in sizes}, sizes


def _runner(network: Any, classes: list[str], device: str) -> Callable[[VideoClip], Prediction]:
    return lambda case: predict_with_heads(network, case.video, classes=classes, device=device)


def _stored_masks(config: RunConfig) -> list[ScoredModel]:
    """The model whose masks lie in ``evaluate.masks``."""
    root = config.evaluate.masks
    if not root:
        return []
    try:
        fs, base = open_filesystem(root.rstrip("/"))
        if not fs.isdir(base):
            raise InputError(f"evaluate.masks: there is no folder {root}")
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"evaluate.masks: {root} cannot be read: {error}") from error

    def predict(case: VideoClip) -> Prediction:
        file = f"{_video_name(case)}.seg.npz"
        try:
            codes = decode_npz(read_inside(fs, base, file, MAX_VIDEO_BYTES), file)
        except OSError as error:
            raise ClipError(f"evaluate.masks: {file} cannot be used: {error}") from error
        return Prediction(_codes_to_prob(codes, case, file))

    return [ScoredModel(MASKS_NAME, 0, predict)]


def _codes_to_prob(codes: np.ndarray, case: VideoClip, file: str) -> np.ndarray:
    """Masks of the case's frames, float64 (T, H, W)."""
    T, H, W = case.video.shape
    if len(codes) < case.window_start + T:
        raise ClipError(
            f"evaluate.masks: {file} holds {codes.dtype} {codes.shape}, expected uint8 (frames, height, width) with at"
            f" least {case.window_start + T} frames"
        )
    assert H == W, "cases are square"
    stretch = codes[case.window_start : case.window_start + T]
    return resize_video(np.ascontiguousarray(stretch), H) / 255.0  # float64: codes come back exactly


def _against_readers(mask: np.ndarray, case: VideoClip, folder: AnnotationFolder) -> list[Measured]:
    """Rows against every reader of ED and ES: ``readers_dice_*`` (their mean), ``consensus_dice_*``, and how far the
    readers agree among themselves, ``interreader_dice_*``. ``n`` is the number of readers (of pairs).
    """
    rows = []
    name, size = _video_name(case), mask.shape[1]
    for phase, frames in (("ed", case.ed_frames), ("es", case.es_frames)):
        readers = folder.masks(name, phase, ANNOTATED_SIDE, ANNOTATED_SIDE)
        if not frames or not len(readers):
            continue
        masks_AHW = resize_labels(readers.astype(np.uint8), size) == 1
        found = against_annotators(mask[frames[0]], masks_AHW)
        rows.append(Measured(f"readers_dice_{phase}", found.mean, len(readers), "readers"))
        rows.append(Measured(f"consensus_dice_{phase}", found.consensus, len(readers), "readers"))
        pairs = pairwise_dice(masks_AHW)
        if len(pairs):
            rows.append(Measured(f"interreader_dice_{phase}", float(pairs.mean()), len(pairs), "readers", None))
    return rows


def _video_name(case: VideoClip) -> str:
    found = _RECORDED.fullmatch(case.clip_id)
    if found is None:
        raise InputError(
            f"evaluate.masks and evaluate.annotations belong to videos of a recorded source, got {case.clip_id}"
        )
    return found["name"]
