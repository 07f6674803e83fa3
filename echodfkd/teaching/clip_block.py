"""The record between source and teacher: clips of some slots, and the members' outputs of an ensemble so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from echodfkd.core.records import Block, Quarantined, StageSpan, VideoClip
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.teaching.members import MemberOutput

_OF_CLIP = (
    *("index", "epoch", "window_start", "video", "sample_weight", "clip_id", "source", "domain", "pending"),
    *("seen_id", "seen_video", "route", "stratum"),
)


@dataclass(frozen=True, kw_only=True)
class ClipBlock(Block):
    """Clips that are to be taught.

    ``attempts`` int64 (N,) counts the indices that each slot has used up. ``pending`` bool (N,) marks the clips whose
    pixels a generator's actor has still to make. ``members`` has the output of each member of
    an ensemble that has taught the block in a pool of its own. ``seen_video`` uint8 (N, T, h, w) are the renderings
    that the teacher sees; None if it sees ``video``.
    """

    attempts: np.ndarray
    pending: np.ndarray
    seen_video: np.ndarray | None = None
    members: Mapping[str, MemberOutput] = field(default_factory=dict)

    @staticmethod
    def of(
        clips: Sequence[VideoClip],
        *,
        slots: Sequence[int],
        attempts: Sequence[int],
        quarantined: Sequence[Quarantined] = (),
        spans: Sequence[StageSpan] = (),
        fault: str = "",
    ) -> ClipBlock:
        """The block of these clips, a clip per slot, without their truth."""
        seen = [clip.seen_video for clip in clips]
        return ClipBlock(
            slot=np.array(slots, np.int64),
            index=np.array([clip.index for clip in clips], np.int64),
            clip_id=tuple(clip.clip_id for clip in clips),
            epoch=np.array([clip.epoch for clip in clips], np.int64),
            window_start=np.array([clip.window_start for clip in clips], np.int64),
            video=np.stack([clip.video for clip in clips]),
            sample_weight=np.array([clip.sample_weight for clip in clips], np.float32),
            source=tuple(clip.source for clip in clips),
            domain=tuple(clip.domain for clip in clips),
            seen_id=tuple(clip.seen_id for clip in clips),
            route=tuple(clip.route for clip in clips),
            stratum=tuple(clip.stratum for clip in clips),
            seen_video=None if seen[0] is None else np.stack([video for video in seen if video is not None]),
            quarantined=tuple(quarantined),
            spans=tuple(spans),
            fault=fault,
            attempts=np.array(attempts, np.int64),
            pending=np.array([clip.pending for clip in clips], bool),
        )

    def to_columns(self) -> dict[str, np.ndarray]:
        """See `Block.to_columns`; with the members' columns."""
        columns = super().to_columns()
        for name, output in self.members.items():
            columns |= output.to_columns(name)
        return columns

    @classmethod
    def from_columns(cls, columns: Mapping[str, np.ndarray]) -> Self:
        """See `Block.from_columns`."""
        return replace(super().from_columns(columns), members=MemberOutput.from_columns(columns))

    def keys(self) -> list[ClipKey]:
        """Identities of the clips, or of the renderings of them, that a teacher is shown."""
        ids = [seen or own for seen, own in zip(self.seen_id, self.clip_id, strict=True)]
        rows = zip(ids, self.index, self.window_start, self.route, strict=True)
        return [ClipKey(clip_id, int(index), int(start), route=route) for clip_id, index, start, route in rows]

    @property
    def shown(self) -> np.ndarray:
        """The video that a teacher is shown, uint8 (N, T, h, w)."""
        return self.video if self.seen_video is None else self.seen_video

    def with_clip(self, row: int, clip: VideoClip, attempts: int) -> Self:
        """A copy in which this clip, found after so many attempts, takes the place of the one in ``row``."""
        changed: dict[str, object] = {"attempts": _replaced(self.attempts, row, attempts)}
        for name in _OF_CLIP:
            if (values := getattr(self, name)) is not None:
                changed[name] = _replaced(values, row, getattr(clip, name))
        return replace(self, **changed)  # type: ignore[arg-type]


def _replaced(values: np.ndarray | tuple[str, ...], row: int, value: object) -> np.ndarray | tuple[str, ...]:
    if isinstance(values, tuple):
        return (*values[:row], str(value), *values[row + 1 :])
    values = values.copy()
    values[row] = value
    return values
