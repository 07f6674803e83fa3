"""Score models on a set of cases in one process: rows first, then the summary. No cluster is needed.

Models are the students of a run's checkpoint, masks that the authors' scripts wrote, and the teacher. What is left is
laid out like a run folder: ``scores/``, ``cases.parquet``, ``quarantine/``, ``config.yaml``, ``run.json`` and
``summary.json``.

Legend: A annotators, T frames, H rows, W columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from echodfkd import schemas
from echodfkd.config import RunConfig, StudentConfig
from echodfkd.config_file import config_from_dict, config_to_yaml
from echodfkd.errors import ClipError, InputError
from echodfkd.metrics.annotators import against_annotators, pairwise_dice
from echodfkd.models.build import build_student, pick_device
from echodfkd.models.convlstm import count_parameters
from echodfkd.object_store import open_filesystem
from echodfkd.records import CaseScore, Quarantined, VideoClip
from echodfkd.reporting.summary import write_summary
from echodfkd.scoring import score_case
from echodfkd.scoring_agreement import JudgedMask, agreement_of, judge_case
from echodfkd.scoring_heads import Prediction, predict_with_heads, predict_with_teacher, score_heads
from echodfkd.scoring_judge import configured_judge, read_case
from echodfkd.scoring_truth import Measured
from echodfkd.storage import RunStorage, read_inside
from echodfkd.synthesis.build import build_source
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


def evaluate(config: RunConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Score everything that ``config.evaluate`` names and write the rows; returns the summary.

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
    source = build_source(
        config.evaluation.source, config.window, seed=config.seed, case_frames=config.evaluation.frames
    )
    available = source.num_cases
    count = config.evaluation.cases if available is None else min(config.evaluation.cases, available)
    scorer = _Scorer(config)
    storage.write("config.yaml", config_to_yaml(replace(config, students=scorer.students)).encode())
    for number in range(count):
        try:
            case = source.case(number)
            rows = scorer.score(case)
        except ClipError as error:
            clip_id = getattr(error, "clip_id", f"{source.name}-case{number}")
            bad = [Quarantined(-1, number, clip_id, "evaluator", str(error))]
            schemas.write_records(storage, f"quarantine/part-cases-{number:06d}.parquet", bad)
            continue
        schemas.write_records(storage, f"scores/part-{number:06d}.parquet", rows)
        say(f"case {number + 1} of {count}: {case.clip_id}, {len(rows)} scores")
    if not scorer.cases:
        raise InputError(f"evaluation.source: none of its {count} cases can be used; see {options.out}/quarantine")
    storage.write_table("cases.parquet", scorer.cases, schemas.CASE_SCHEMA)
    if options.agreement:
        storage.write("agreement.json", (json.dumps(scorer.study(), indent=1, allow_nan=False) + "\n").encode())
    storage.write("run.json", json.dumps(scorer.facts()).encode())
    return write_summary(storage)


class _Scorer:
    """The models, the judge, and what they have seen."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        device = pick_device(config.teacher.device, "teacher.device")
        self._teacher = build_configured_teacher(config.teacher, device=device) if config.evaluate.teacher else None
        models, self.students, self._sizes = load_students(config, device)
        self._models = [*models, *_stored_masks(config)]
        self._judge = configured_judge(config.evaluation, device)
        if config.evaluate.agreement and self._judge is None:
            raise InputError("evaluate.agreement: set, but evaluation.judge is none")
        self._annotations = AnnotationFolder(config.evaluate.annotations) if config.evaluate.annotations else None
        self._judged: list[JudgedMask] = []
        self.cases: list[dict[str, object]] = []

    def score(self, case: VideoClip) -> list[CaseScore]:
        """Rows of every model for one case. Raises `ClipError` where a model has no mask of it."""
        found = [(model, model.predict(case)) for model in self._models]
        teacher_id, against = "", None
        if self._teacher is not None:
            teacher_id = self._teacher.teacher_id
            against = predict_with_teacher(self._teacher, case, classes=("LV",), tasks=())
            found.append((ScoredModel("", -1, lambda _: against), against))
        rows = [row for model, seen in found for row in self._score_model(model, seen, case, teacher_id, against)]
        rows += read_case(self._judge, case, teacher_id=teacher_id)
        self.cases.append(schemas.case_row(case))
        if self._config.evaluate.agreement:
            assert self._judge is not None
            threshold = self._config.evaluation.threshold
            masks = {model.name or "teacher": seen.lv_prob > threshold for model, seen in found}
            self._judged += judge_case(self._judge, case, masks)
        return rows

    def facts(self) -> dict[str, object]:
        """What no row tells, as a run's run.json has it. Nothing was trained: the plan is empty."""
        teacher_id = self._teacher.teacher_id if self._teacher is not None else ""
        sizes = {name: {"parameters": size} for name, size in self._sizes.items()}
        return {**code_version(), "teacher_id": teacher_id, "students": sizes, "plan_slots": 0}

    def study(self) -> dict[str, object]:
        """The judge's agreement with Dice over everything scored."""
        assert self._judge is not None
        return agreement_of(self._judge.judge_id, self._judged, seed=self._config.seed).to_json()

    def _score_model(
        self, model: ScoredModel, seen: Prediction, case: VideoClip, teacher_id: str, against: Prediction | None
    ) -> list[CaseScore]:
        threshold = self._config.evaluation.threshold
        further = score_heads(seen, case, threshold=threshold, who=model.name or f"teacher {teacher_id}")
        if self._annotations is not None:
            further += _against_readers(seen.lv_prob > threshold, case, self._annotations)
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


def load_students(config: RunConfig, device: str) -> tuple[list[ScoredModel], dict[str, StudentConfig], dict[str, int]]:
    """The students of one checkpoint of ``evaluate.run``, as its own config built them; their options; sizes."""
    if not config.evaluate.run:
        return [], {}, {}
    storage = RunStorage(config.evaluate.run)
    commits = [c for c in list_checkpoints(storage) if config.evaluate.step in (0, c.step)]
    if not commits:
        wanted = f"of step {config.evaluate.step}" if config.evaluate.step else "at all"
        raise InputError(f"evaluate.run: {storage.root} holds no published checkpoint {wanted} (evaluate.step)")
    checkpoint, where = commits[-1], f"{storage.root}/config.yaml"
    try:
        values = parse_yaml(storage.read("config.yaml"), where)
    except FileNotFoundError as error:
        raise InputError(f"evaluate.run: {storage.root} holds no config.yaml") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold `key: value` lines, got a {type(values).__name__}")
    known = config_from_dict(values).students
    models, sizes = [], {}
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
