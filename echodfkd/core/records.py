"""Records that cross process boundaries, with shapes, dtypes, ranges, units and an example.

Legend: N clips, T frames, C classes, H rows, W columns, B clips of one micro-batch. Video is grey, uint8.

The unit of the plan is the *slot*: a run of N clips has the slots 0 .. N-1, and each slot ends as
exactly one trained clip. Slot ``s`` first draws the clip of index ``s``; if that clip is
quarantined, it draws ``s + N``, then ``s + 2N`` and so on. A replacement depends only on the slot: no
actor has to ask another which index is free, in any order and on any machine.

(More than 300 lines: all contracts between stages stand side by side, each with its example.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

TRUTH_UNKNOWN = 255
"""Value of pixels without annotation in a truth label map (whole frames, in EchoNet-Dynamic)."""

JUDGE_STEP = -2
"""``step`` of a score for which the judge read only the video, without a mask."""

CLASS_NAMES = ("background", "LV")
CHAMBER_NAMES = ("background", "LV", "myocardium", "LA", "RV", "RA")
"""Class names of truth label maps: only the LV's cavity (value 1), or all chambers."""


@dataclass(frozen=True)
class Conditions:
    """Clinical conditions of a clip; None if unknown. Quality is 0 (barely readable) .. 1 (textbook).

    Example: ``Conditions(ef_percent=55.0, edv_ml=100.0, esv_ml=45.0, heart_rate_bpm=65.0)``.
    """

    ef_percent: float | None = None
    edv_ml: float | None = None
    esv_ml: float | None = None
    heart_rate_bpm: float | None = None
    age_years: float | None = None
    sex: str | None = None  # "F" or "M"
    bsa_m2: float | None = None
    view: str | None = None  # "A4C" or "A2C"
    image_quality: float | None = None


@dataclass(frozen=True)
class VideoClip:
    """One clip, cut to a training window or a whole evaluation case.

    Shapes: ``video`` uint8 (T, H, W), 0..255 grey. ``truth_labels`` uint8 (T, H, W) of class indices
    into ``class_names``, `TRUTH_UNKNOWN` if unannotated, or None. ``ed_frames`` / ``es_frames`` are
    frame numbers inside this clip, or None if unknown. ``spacing_mm`` is the side of a pixel in
    millimetres, or None.

    Example: ``VideoClip(clip_id="phantom-s0-i17-e0-w0", index=17, seed=0, epoch=0, window_start=0,
    video=np.zeros((16, 56, 56), np.uint8), fps=32.0, source="phantom", domain="default")``.
    """

    clip_id: str
    index: int
    seed: int
    epoch: int
    window_start: int
    video: np.ndarray
    fps: float
    source: str
    domain: str
    spacing_mm: float | None = None
    conditions: Conditions = Conditions()
    sample_weight: float = 1.0
    truth_labels: np.ndarray | None = None
    class_names: tuple[str, ...] = CLASS_NAMES
    ed_frames: tuple[int, ...] | None = None
    es_frames: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TriedClip:
    """A slot of the plan, and the clip that was tried for it."""

    slot: int
    index: int
    clip_id: str


@dataclass(frozen=True)
class Quarantined(TriedClip):
    """One index that could not be used, and why.

    Example: ``Quarantined(slot=3, index=3, clip_id="recorded-0X1A-s0-e0", stage="source",
    reason="0X1A.avi has 71 frames, its header says 176")``.
    """

    stage: str
    reason: str


@dataclass(frozen=True)
class StageSpan:
    """One piece of work of one actor: ``start`` and ``end`` in seconds since 1970 (UTC).

    Example: ``StageSpan("teacher", "teacher-4711", 1.7e9, 1.7e9 + 0.2, clips=8, frames=128)``.
    """

    stage: str
    actor: str
    start: float
    end: float
    clips: int
    frames: int
    bytes: int = 0  # of cache entries that were read or written


@dataclass(frozen=True)
class DroppedMember(TriedClip):
    """One member of an ensemble that one trained clip was taught without, and why.

    Example: ``DroppedMember(slot=3, index=3, clip_id="recorded-0X1A-s0-e0", member="mine",
    reason="/masks holds no mask of recorded-0X1A-s0-e0")``.
    """

    member: str
    reason: str


@dataclass(frozen=True)
class TaughtClip:
    """A window with its soft masks. ``teacher_prob`` (T, H, W) or (T, C, H, W) in a code of `mask_codes`.

    ``teacher_confidence`` is uint8, round(255 * how far an ensemble's members agree); None if no student reads it.
    ``teacher_features`` float16 (T, F, h, w), or None if no student reads them.

    Example: ``TaughtClip(slot=17, clip=clip, teacher_prob=np.zeros((16, 56, 56), np.uint8),
    teacher_id="embedded-1a2b3c4d")``.
    """

    slot: int
    clip: VideoClip
    teacher_prob: np.ndarray
    teacher_id: str
    teacher_confidence: np.ndarray | None = None
    teacher_features: np.ndarray | None = None


@dataclass(frozen=True)
class LedgerRow(TriedClip):
    """One clip trained once. Rows are void until a checkpoint's manifest names their file."""

    epoch: int
    window_start: int
    step: int
    rank: int
    attempt: str
    source: str = ""  # in a mixture: the part's name
    domain: str = ""


@dataclass(frozen=True)
class TrainingRow:
    """One student's update number ``step``, from 1.

    ``grad_norm`` is the global norm before clipping, ``time`` seconds since 1970 (UTC), ``busy_s`` the seconds of
    the forward passes, backward passes and update on the worker that wrote the row, and ``terms`` the values of the
    loss's terms before they are weighted, by name.

    Example: ``TrainingRow("c31", 100, 0.12, 3e-3, 0.8, 1.7e9, 0.05, {"bce": 0.12})``.
    """

    student: str
    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    time: float
    busy_s: float
    terms: dict[str, float]


@dataclass(frozen=True)
class DistillationBatch:
    """One micro-batch of one rank. No truth crosses to the students.

    Shapes: ``slot`` and ``index`` int64 (B,), ``video`` uint8 (B, T, H, W), ``teacher_prob`` codes (B, T, H, W), or
    (B, T, C, H, W) in the order of `RunConfig.taught_classes`, ``sample_weight`` float32 (B,). ``teacher_phase``
    float32 (B, T), 1 at ED and 0 at ES, and ``teacher_ef`` float32 (B,), 0..1: None if no student learns them, NaN
    if the teacher's masks do not tell. ``teacher_confidence`` uint8, as ``teacher_prob``, and ``teacher_features``
    float16 (B, T, F, h, w): None if no student reads them. ``fault`` is "" or the sentence that must stop the run.

    Example: ``DistillationBatch.from_columns(next(iter(stream)))``.
    """

    slot: np.ndarray
    index: np.ndarray
    clip_id: tuple[str, ...]
    epoch: np.ndarray
    window_start: np.ndarray
    video: np.ndarray
    teacher_prob: np.ndarray
    sample_weight: np.ndarray
    source: tuple[str, ...] = ()
    domain: tuple[str, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    spans: tuple[StageSpan, ...] = ()
    fault: str = ""
    teacher_phase: np.ndarray | None = None
    teacher_ef: np.ndarray | None = None
    teacher_confidence: np.ndarray | None = None
    dropped: tuple[DroppedMember, ...] = ()
    teacher_features: np.ndarray | None = None

    @staticmethod
    def from_columns(columns: dict[str, np.ndarray]) -> DistillationBatch:
        """Read the columns that `taught_columns` wrote (see there for names and dtypes)."""
        quarantined: list[Quarantined] = []
        spans: list[StageSpan] = []
        for text in columns["quarantined"]:
            quarantined.extend(Quarantined(**row) for row in json.loads(str(text)))
        for text in columns["spans"]:
            spans.extend(StageSpan(**row) for row in json.loads(str(text)))
        faults = [str(text) for text in columns["fault"] if str(text)]
        return DistillationBatch(
            slot=np.asarray(columns["slot"], np.int64),
            index=np.asarray(columns["index"], np.int64),
            clip_id=tuple(str(name) for name in columns["clip_id"]),
            epoch=np.asarray(columns["epoch"], np.int64),
            window_start=np.asarray(columns["window_start"], np.int64),
            video=np.asarray(columns["video"]),
            teacher_prob=np.asarray(columns["teacher_prob"]),
            sample_weight=np.asarray(columns["sample_weight"], np.float32),
            source=tuple(str(name) for name in columns["source"]),
            domain=tuple(str(name) for name in columns["domain"]),
            quarantined=tuple(quarantined),
            spans=tuple(spans),
            fault=faults[0] if faults else "",
            teacher_phase=columns.get("teacher_phase"),
            teacher_ef=columns.get("teacher_ef"),
            teacher_confidence=columns.get("teacher_confidence"),
            dropped=tuple(DroppedMember(**row) for text in columns.get("dropped", ()) for row in json.loads(str(text))),
            teacher_features=columns.get("teacher_features"),
        )


def clip_columns(
    clips: Sequence[VideoClip],
    *,
    slots: Sequence[int],
    attempts: Sequence[int],
    quarantined: Sequence[Quarantined] = (),
    spans: Sequence[StageSpan] = (),
    fault: str = "",
) -> dict[str, np.ndarray]:
    """Columns of one block between source and teacher, a row per slot. Truth columns end here.

    ``attempts`` counts the indices each slot has used up. The lists of a block (quarantined indices, work
    spans, the fault) ride on its first row as JSON, so that bookkeeping arrives exactly when, and as often
    as, the clips do.
    """
    count = len(clips)
    return {
        "slot": np.array(slots, np.int64),
        "index": np.array([c.index for c in clips], np.int64),
        "clip_id": np.array([c.clip_id for c in clips], dtype=object),
        "epoch": np.array([c.epoch for c in clips], np.int64),
        "window_start": np.array([c.window_start for c in clips], np.int64),
        "video": np.stack([c.video for c in clips]),
        "sample_weight": np.array([c.sample_weight for c in clips], np.float32),
        "source": np.array([c.source for c in clips], dtype=object),
        "domain": np.array([c.domain for c in clips], dtype=object),
        "attempts": np.array(attempts, np.int64),
        "quarantined": json_column(quarantined, count),
        "spans": json_column(spans, count),
        "fault": np.array([fault] + [""] * (count - 1), dtype=object),
    }


def append_bookkeeping(
    block: dict[str, np.ndarray], quarantined: Sequence[Quarantined], spans: Sequence[StageSpan], fault: str
) -> dict[str, np.ndarray]:
    """The block with more on the lists of its first row."""
    block = dict(block)
    for name, rows in (("quarantined", quarantined), ("spans", spans)):
        column = block[name].copy()
        column[0] = json.dumps(json.loads(str(column[0])) + [asdict(row) for row in rows])
        block[name] = column
    if fault:
        block["fault"] = block["fault"].copy()
        block["fault"][0] = fault
    return block


def taught_columns(
    clips: Sequence[TaughtClip],
    quarantined: Sequence[Quarantined] = (),
    spans: Sequence[StageSpan] = (),
    fault: str = "",
) -> dict[str, np.ndarray]:
    """Columns of one block between teacher and students: `clip_columns` with ``teacher_prob``."""
    columns = clip_columns(
        [taught.clip for taught in clips],
        slots=[taught.slot for taught in clips],
        attempts=[1] * len(clips),
        quarantined=quarantined,
        spans=spans,
        fault=fault,
    )
    del columns["attempts"]
    columns["teacher_prob"] = np.stack([taught.teacher_prob for taught in clips])
    for name in ("teacher_confidence", "teacher_features"):
        rows = [column for taught in clips if (column := getattr(taught, name)) is not None]
        if rows:
            columns[name] = np.stack(rows)
    return columns


def json_column(rows: Sequence[object], count: int) -> np.ndarray:
    """A column of ``count`` texts whose first holds a block's records."""
    return np.array([json.dumps([asdict(row) for row in rows])] + ["[]"] * (count - 1), dtype=object)  # type: ignore[call-overload]


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One commit for the whole family of students, readable because its manifest exists.

    ``folder`` is relative to the run folder. ``files`` maps each file's name inside ``folder`` to its
    size and sha256. ``ledger`` and ``quarantine`` name the part files that it makes valid, ``parts`` describes them.

    Example: ``PublishedCheckpoint(step=100, folder="checkpoints/step_00000100", students=("c31",),
    files={"c31/student.safetensors": {"size": 1234, "sha256": "..."}}, ledger=(...), meta={...})``.
    """

    step: int
    folder: str
    students: tuple[str, ...]
    files: dict[str, dict[str, object]]
    ledger: tuple[str, ...] = ()
    quarantine: tuple[str, ...] = ()
    meta: dict[str, object] = field(default_factory=dict)
    parts: dict[str, dict[str, object]] = field(default_factory=dict)
    lease_epoch: int = 0  # of its run (`echodfkd.storage.lease`)
    layout: int = 1

    def stopped_at(self, student: str) -> int | None:
        """Updates after which early stopping ended this student's training; None while it goes on."""
        stopping = self.meta.get("early_stopping")
        state = stopping.get(student) if isinstance(stopping, dict) else None
        return state.get("stopped_at") if isinstance(state, dict) else None

    def steps_of(self, student: str) -> int:
        """Updates that this student's weights have seen."""
        stopped = self.stopped_at(student)
        return self.step if stopped is None else min(stopped, self.step)

    @property
    def ended(self) -> bool:
        """Whether all students have stopped: the run is over, and its plan is the slots consumed so far."""
        return bool(self.students) and all(self.stopped_at(student) is not None for student in self.students)


@dataclass(frozen=True)
class CaseScore:
    """One score of one case: the unit of every table and figure.

    ``student`` is "" and ``step`` -1 if the teacher itself was scored, `JUDGE_STEP` if only the video was.
    ``reference`` is "truth", "teacher" or a judge's id. ``threshold`` is the probability above which a pixel
    counts as LV, or None. ``n`` is the number of frames (or beats) that the value averages over.

    Example: ``CaseScore("phantom-s1-i0-e0-w0", "embedded-1a2b", "c31", 100, "dice_ed", "truth", "", 0.5, 0.91, 2)``.
    """

    clip_id: str
    teacher_id: str
    student: str
    step: int
    metric: str
    reference: str
    unit: str
    threshold: float | None
    value: float
    n: int
