"""Members of an ensemble: their outputs, how these cross between actor pools, and their fusion. No Ray.

Every member's masks are rounded to 8 bits (`mask_codes`) before they are fused, whether the members run in one actor or
each in a pool of its own, so that the result is the same bit for bit.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from echodfkd.config.sections.route import RouteConfig
from echodfkd.core import clock
from echodfkd.core.errors import EchoDFKDError, RunError
from echodfkd.core.mask_codes import MASK_CODES, PROBABILITY, decode, encode, quantise
from echodfkd.core.records import StageSpan
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.teaching.fusion import fuse_by_name
from echodfkd.teaching.routing import teaches

_MASKS, _FACTS = "member_masks", "member_facts"


@dataclass(frozen=True)
class MemberOutput:
    """The output of one member for N clips.

    Attributes:
        teacher_id: of the member.
        classes: the wanted classes that it segments.
        masks: (N, T, C, H, W), codes of `mask_codes` in the order of ``classes``.
        faults: rows without a usable mask, each with the reason.
        error: "", or why the member failed on the whole block.
        skipped: rows that go to other members (`routing`).
        spans: its work, for the timeline; ``actor`` is left empty.
    """

    teacher_id: str
    classes: tuple[str, ...]
    masks: np.ndarray
    faults: Mapping[int, str] = field(default_factory=dict)
    error: str = ""
    skipped: tuple[int, ...] = ()
    spans: tuple[StageSpan, ...] = ()

    @staticmethod
    def empty(teacher: Teacher, video_NTHW: np.ndarray, *, classes: Sequence[str], code: str) -> MemberOutput:
        """For clips that are not shown to the member."""
        given = tuple(name for name in classes if name in teacher.class_names[1:])
        N, T, H, W = video_NTHW.shape
        return MemberOutput(teacher.teacher_id, given, np.zeros((N, T, len(given), H, W), MASK_CODES[code]))

    @staticmethod
    def of(
        name: str,
        teacher: Teacher,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey],
        *,
        classes: Sequence[str],
        code: str,
    ) -> MemberOutput:
        """Let the member teach those of these clips that are routed to it, all if they have no route.

        An explained error is kept: the fusion decides whether it ends the run.
        """
        skipped = tuple(row for row, clip in enumerate(clips) if not teaches(name, clip.route))
        rows = [row for row in range(len(video_NTHW)) if row not in skipped]
        found = replace(MemberOutput.empty(teacher, video_NTHW, classes=classes, code=code), skipped=skipped)
        if not rows:
            return found
        start, shown = clock.now(), video_NTHW if not skipped else video_NTHW[rows]
        try:
            output = teacher.teach(
                shown, [clips[row] for row in rows] if clips else (), classes=found.classes, code=code
            )
        except EchoDFKDError as error:
            output = TeacherOutput(found.masks[rows])
            found = replace(found, error=str(error))
        own = StageSpan("teacher", "", start, clock.now(), len(rows), len(rows) * video_NTHW.shape[1])
        spans = tuple(replace(span, stage=f"{span.stage}.{name}") for span in (own, *output.spans))
        found.masks[rows] = output.masks
        faults = {rows[place]: reason for place, reason in output.faults.items()}
        return replace(found, faults=faults, spans=spans)

    def to_columns(self, name: str) -> dict[str, np.ndarray]:
        """Columns of a block that hold this member's output; all but the masks ride on the first row, as JSON."""
        facts: dict[str, object] = {"teacher_id": self.teacher_id, "classes": self.classes, "error": self.error}
        facts["skipped"] = self.skipped
        texts = [json.dumps({**facts, "faults": dict(self.faults)})] + [""] * (len(self.masks) - 1)
        return {f"{_MASKS}.{name}": self.masks, f"{_FACTS}.{name}": np.array(texts, dtype=object)}

    @staticmethod
    def from_columns(columns: Mapping[str, np.ndarray]) -> dict[str, MemberOutput]:
        """The outputs that `to_columns` wrote into a block, by member; without their spans."""
        found = {}
        for column in columns:
            kind, _, name = column.partition(".")
            if kind == _FACTS:
                facts = json.loads(str(columns[column][0]))
                faults = {int(row): reason for row, reason in facts["faults"].items()}
                masks = np.asarray(columns[f"{_MASKS}.{name}"])
                found[name] = MemberOutput(
                    facts["teacher_id"],
                    tuple(facts["classes"]),
                    masks,
                    faults,
                    facts["error"],
                    tuple(facts["skipped"]),
                )
        return found


@dataclass(frozen=True)
class MemberRule:
    """A member's name in the config, its weight, and whether no clip may be taught without it."""

    name: str
    weight: float
    required: bool = True


@dataclass(frozen=True)
class Fusion:
    """How an ensemble's members become one teacher.

    ``method`` is one of `fusion.FUSIONS`; ``code`` of `mask_codes.MASK_CODES`: the members' masks are rounded to it;
    ``route`` says which members teach a clip.
    """

    method: str
    members: tuple[MemberRule, ...]
    code: str = PROBABILITY
    route: RouteConfig = field(default_factory=RouteConfig)

    def teacher_id(self, ids: Sequence[str]) -> str:
        """The ensemble's id, from its members' ids in the order of ``members``."""
        who = "|".join(f"{one} {rule.weight!r}" for one, rule in zip(ids, self.members, strict=True))
        who += f"|{json.dumps(asdict(self.route), sort_keys=True)}" if self.route.by else ""
        steps = "255" if self.code == PROBABILITY else self.code
        return f"ensemble-{hashlib.sha256(f'{self.method}/{steps}|{who}'.encode()).hexdigest()[:8]}"

    def fuse(self, outputs: Sequence[MemberOutput], classes: Sequence[str], code: str | None) -> TeacherOutput:
        """Fuse the members' masks of N clips, each class over the members that give it.

        Members that skipped a clip, and optional ones without a usable mask of it, are left out of its fusion. A clip
        is at fault if a required member that did not skip it has no mask of it, or if the remaining members do not give
        all wanted classes.

        Args:
            outputs: one per member, in the order of ``members``.
            classes: wanted, each given by at least one member.
            code: of the fused masks; None gives probabilities.

        Returns:
            Masks and confidence (`fusion.confidence`, over the members that were not left out).

        Raises:
            RunError: a required member raised an explained error.
        """
        for rule, one in zip(self.members, outputs, strict=True):
            if one.error and rule.required:
                raise RunError(f"teacher.members.{rule.name}: {one.error}")
        N, T, _, H, W = outputs[0].masks.shape
        prob, confidence = (np.zeros((N, T, len(classes), H, W), np.float32) for _ in range(2))
        faults: dict[int, str] = {}
        dropped: dict[int, dict[str, str]] = {}
        groups: dict[tuple[int, ...], list[int]] = {}  # clips by the members that they are fused from
        for row in range(N):
            asked = [place for place, one in enumerate(outputs) if row not in one.skipped]
            missing = {place: reason for place in asked if (reason := _missing(outputs[place], row))}
            used = tuple(place for place in asked if place not in missing)
            if reason := self._fault(outputs, missing, used, classes):
                faults[row] = reason
                continue
            groups.setdefault(used, []).append(row)
            if missing:
                dropped[row] = {self.members[place].name: reason for place, reason in missing.items()}
        for used, rows in groups.items():
            prob[rows], confidence[rows] = fuse_by_name(
                [decode(outputs[place].masks[rows]) for place in used],
                [outputs[place].classes for place in used],
                [self.members[place].weight for place in used],
                method=self.method,
                class_names=tuple(classes),
            )
        masks = prob if code is None else encode(prob, code)
        return TeacherOutput(masks, faults, quantise(confidence), dropped=dropped)

    def _fault(
        self, outputs: Sequence[MemberOutput], missing: dict[int, str], used: Sequence[int], classes: Sequence[str]
    ) -> str:
        """Why a clip with these members missing cannot be taught, or ""."""
        reasons = {place: f"{self.members[place].name}: {reason}" for place, reason in missing.items()}
        if required := [place for place in missing if self.members[place].required]:
            return reasons[required[0]]
        given = {name for place in used for name in outputs[place].classes}
        lacking = ", ".join(name for name in classes if name not in given)
        return lacking and ("; ".join(reasons.values()) or f"no member that it is routed to gives {lacking}")


def _missing(output: MemberOutput, row: int) -> str:
    """Why a member has no usable mask of a clip, or ""."""
    return output.error or output.faults.get(row, "")
