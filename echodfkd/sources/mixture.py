"""Weighted mixture of sources with exact proportions in every period, and nearly exact ones in any stretch.

The order of parts within a period follows Tijdeman's solution of the chairman assignment problem (Discrete
Mathematics 32, 1980): among k parts, after any number of clips from the start, each part has given its share to
within 1 - 1 / (2k - 2) clips. Nothing is random: the part of clip i is computed from i.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from echodfkd.config.rules.source import exact_shares
from echodfkd.config.sections.sees import SeesConfig
from echodfkd.config.sections.source import SourceConfig
from echodfkd.core.errors import ClipError
from echodfkd.core.records import VideoClip
from echodfkd.sources.clip_source import ClipSource, OtherRenderings


class Schedule:
    """The endless sequence of parts.

    Args:
        counts: clips of each part in one period, each at least 1. The order of the names does not matter.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        assert counts, "a schedule needs a part"
        assert all(count > 0 for count in counts.values()), f"parts without clips: {counts}"
        self.counts = dict(sorted(counts.items()))
        self.period = sum(counts.values())
        self._order = _spread(self.counts)
        self._places: dict[str, list[int]] = {name: [] for name in self.counts}
        for place, name in enumerate(self._order):
            self._places[name].append(place)

    def part(self, index: int) -> tuple[str, int]:
        """The part that gives clip ``index``, and the number of this clip among the part's own: 0, 1, 2 ..."""
        turn, place = divmod(index, self.period)
        name = self._order[place]
        return name, turn * self.counts[name] + bisect.bisect_left(self._places[name], place)

    def index(self, name: str, number: int) -> int:
        """The index at which a part gives its clip ``number``: the inverse of `part`."""
        turn, place = divmod(number, self.counts[name])
        return turn * self.period + self._places[name][place]


def part_counts(source: SourceConfig, option: str) -> dict[str, int]:
    """Clips of each part of a mixture in one period. ``option`` is its name in the config. Raises `ConfigError`."""
    return exact_shares({name: part.weight for name, part in source.parts.items()}, f"{option}.parts")


def part_seed(seed: int, name: str, seed_offset: int) -> int:
    """Seed of a mixture's part, by its name: parts show different patients, and a new part changes no other."""
    return seed + seed_offset + (int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1)


class MixtureSource:
    """Several sources as one (see `echodfkd.sources.clip_source.ClipSource`).

    Each part sees its own indices 0, 1, 2 ... once and in order. A clip's id is
    the part's name, '-' and the part's own id; its ``source`` is the part's name. The replacement of a quarantined clip
    has another index, and so may come from another part: proportions are exact over the clips drawn, and over the clips
    trained if the run's number of slots is a multiple of the period.

    Args:
        parts: sources by name; names hold no '-'.
        counts: clips of each part in one period (`echodfkd.config.rules.source.exact_shares`).
        cases_from: the part that gives evaluation cases; "" takes all parts, with the shares of the clips, until one
            runs out.
    """

    name = "mixture"

    def __init__(self, parts: Mapping[str, ClipSource], counts: Mapping[str, int], *, cases_from: str = "") -> None:
        assert set(parts) == set(counts)
        self.parts = dict(parts)
        self.notes = tuple(f"{name}: {note}" for name, part in sorted(parts.items()) for note in part.notes)
        self._cases_from = cases_from
        self.schedule = Schedule(counts)

    @property
    def num_cases(self) -> int | None:
        """Cases before a part runs out; None if no part does."""
        if self._cases_from:
            return self.parts[self._cases_from].num_cases
        sizes = {name: part.num_cases for name, part in self.parts.items()}
        ends = [self.schedule.index(name, size) for name, size in sizes.items() if size is not None]
        return min(ends, default=None)

    def clip(self, index: int) -> VideoClip:
        """Training clip ``index``. See `ClipSource.clip`.

        Raises:
            ClipError: the part cannot use its index. The error's ``clip_id`` names the clip.
        """
        return self._make(index, *self._place(index, is_case=False), "clip")

    def case(self, index: int) -> VideoClip:
        """Evaluation case ``index``. See `ClipSource.case`.

        Raises:
            ClipError: the part cannot use its case. The error's ``clip_id`` names the case.
        """
        return self._make(index, *self._place(index, is_case=True), "case")

    def drawn(self, index: int, name: str, number: int, draw: int) -> VideoClip:
        """Draw ``draw`` of a part's clip ``number``, as clip ``index``. Raises `ClipError` likewise."""
        return self._make(index, name, number, "clip", draw)

    def seen_as(self, sees: SeesConfig) -> MixtureSource:
        """The source of the same clips in another rendering of every part."""
        parts: dict[str, ClipSource] = {}
        for name, part in self.parts.items():
            assert isinstance(part, OtherRenderings), "check_sees: generated clips have one rendering"
            parts[name] = part.seen_as(sees)
        return MixtureSource(parts, self.schedule.counts, cases_from=self._cases_from)

    def part_of(self, index: int, *, is_case: bool) -> tuple[ClipSource, int]:
        """The part that gives a clip (or case), and the number of it among the part's own."""
        name, number = self._place(index, is_case=is_case)
        return self.parts[name], number

    def _place(self, index: int, *, is_case: bool) -> tuple[str, int]:
        return (self._cases_from, index) if is_case and self._cases_from else self.schedule.part(index)

    def _make(self, index: int, name: str, number: int, purpose: str, *draw: int) -> VideoClip:
        part = self.parts[name]
        try:
            clip = getattr(part, purpose)(number, *draw)
        except ClipError as error:
            own = getattr(error, "clip_id", f"{part.name}-i{number}")
            error.clip_id = f"{name}-{own}"  # type: ignore[attr-defined]
            raise
        return replace(clip, index=index, clip_id=f"{name}-{clip.clip_id}", source=name)


def _spread(counts: Mapping[str, int]) -> list[str]:
    """Order of the parts in one period: of the parts that may come next, the one with the nearest deadline.

    With share s of a part, x of its clips given before clip n (from 1) and d = 1 / (2k - 2), the part may come
    when s * n - x >= d; its deadline is (1 - d + x) / s.
    """
    period = sum(counts.values())
    slack = Fraction(1, max(2 * len(counts) - 2, 1))
    given = dict.fromkeys(counts, 0)
    order: list[str] = []
    for n in range(1, period + 1):
        ready = [name for name, count in counts.items() if Fraction(count * n, period) - given[name] >= slack]
        order.append(min(ready, key=lambda name: (1 - slack + given[name]) * Fraction(period, counts[name])))
        given[order[-1]] += 1
    return order
