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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

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
    millimetres, or None. ``warnings`` are sentences on the file that it was cut from. A ``pending`` clip is black: the
    actors of its generator make its pixels. ``seen_video`` uint8 (T, h, w) is the rendering that the teacher sees in
    place of ``video``, and ``seen_id`` names it; None and "" if it sees ``video``. ``route`` names the members of an
    ensemble that teach it, with commas; "" if all do. ``stratum`` is that of a steered run's patient.

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
    warnings: tuple[str, ...] = ()
    pending: bool = False
    seen_id: str = ""
    seen_video: np.ndarray | None = None
    stratum: str = ""
    route: str = ""


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
class LedgerRow(TriedClip):
    """One clip trained once. Rows are void until a checkpoint's manifest names their file."""

    epoch: int
    window_start: int
    step: int
    rank: int
    attempt: str
    source: str = ""  # in a mixture: the part's name
    domain: str = ""
    seen_id: str = ""  # the rendering that the teacher saw, if it is not the clip's own
    route: str = ""  # the members of an ensemble that taught it, if not all did
    stratum: str = ""  # of a steered run
    comes_back: bool = False  # a clip of an earlier slot, on purpose (source.steering.again)


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


@dataclass(frozen=True, kw_only=True)
class Block:
    """The clips of some slots with their bookkeeping: one read task, one micro-batch of one worker.

    Shapes: ``slot``, ``index``, ``epoch`` and ``window_start`` int64 (N,), ``video`` uint8 (N, T, H, W),
    ``sample_weight`` float32 (N,). ``fault`` is "" or the sentence that must stop the run. No truth is among them.
    """

    slot: np.ndarray
    index: np.ndarray
    clip_id: tuple[str, ...]
    epoch: np.ndarray
    window_start: np.ndarray
    video: np.ndarray
    sample_weight: np.ndarray
    source: tuple[str, ...] = ()
    domain: tuple[str, ...] = ()
    seen_id: tuple[str, ...] = ()
    route: tuple[str, ...] = ()
    stratum: tuple[str, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    spans: tuple[StageSpan, ...] = ()
    fault: str = ""

    def to_columns(self) -> dict[str, np.ndarray]:
        """Columns for Ray Data, a row per slot.

        The records of a block (quarantined indices, spans of work, the fault) ride on its first row as JSON, so that
        they arrive exactly when, and as often as, the clips do.
        """
        columns, count = {}, len(self.slot)
        for field_ in fields(self):
            name, value = field_.name, getattr(self, field_.name)
            if isinstance(value, np.ndarray):
                columns[name] = value
            elif name in _RECORDS:
                columns[name] = _text_column(json.dumps([asdict(row) for row in value]), "[]", count)
            elif name in _TEXTS:
                columns[name] = np.array(value, dtype=object)
        return {**columns, "fault": _text_column(self.fault, "", count)}

    @classmethod
    def from_columns(cls, columns: Mapping[str, np.ndarray]) -> Self:
        """Read the columns that `to_columns` wrote; other columns are ignored."""
        values: dict[str, Any] = {}
        for name in (field_.name for field_ in fields(cls) if field_.name in columns):
            if name in _RECORDS:
                rows = [row for text in columns[name] for row in json.loads(str(text))]
                values[name] = tuple(_RECORDS[name](**row) for row in rows)
            elif name in _TEXTS:
                values[name] = tuple(str(text) for text in columns[name])
            elif name == "fault":
                values[name] = next((str(text) for text in columns[name] if str(text)), "")
            else:
                values[name] = np.asarray(columns[name])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class DistillationBatch(Block):
    """A taught block: what one rank trains on in one micro-batch. No truth crosses to the students.

    Shapes: ``teacher_prob`` (N, T, C, H, W) in a code of `mask_codes` and the order of `RunConfig.taught_classes`.
    ``teacher_confidence`` uint8, round(255 x), shaped likewise: how far an ensemble's members agree.
    ``teacher_features`` float16 (N, T, F, h, w). ``teacher_phase`` float32 (N, T), 1 at ED and 0 at ES, and
    ``teacher_ef`` float32 (N,), 0..1, both NaN if the teacher's masks do not tell. All but the masks are None if no
    student reads them. ``dropped`` are the members of an ensemble that clips were taught without.

    Example: ``DistillationBatch.from_columns(next(iter(stream)))``.
    """

    teacher_prob: np.ndarray
    teacher_confidence: np.ndarray | None = None
    teacher_features: np.ndarray | None = None
    teacher_phase: np.ndarray | None = None
    teacher_ef: np.ndarray | None = None
    dropped: tuple[DroppedMember, ...] = ()


_TEXTS = ("clip_id", "source", "domain", "seen_id", "route", "stratum")
_RECORDS: dict[str, type] = {"quarantined": Quarantined, "spans": StageSpan, "dropped": DroppedMember}


def _text_column(first: str, rest: str, count: int) -> np.ndarray:
    return np.array([first] + [rest] * (count - 1), dtype=object)


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
