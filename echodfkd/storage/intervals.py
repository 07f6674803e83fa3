"""Sets of slots as few intervals instead of many numbers."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from echodfkd.core.errors import InputError
from echodfkd.storage.untrusted import parse_json


@dataclass(frozen=True)
class Intervals:
    """A set of slots: sorted, disjoint, non-adjacent half-open ranges (start, stop).

    A stream in plan order needs one range however long the run is; out of order, about as many as
    there are clips in flight.
    """

    ranges: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(slots: Iterable[int]) -> Intervals:
        """The set of these slots, in any order, repeated or not."""
        values = np.unique(np.fromiter(slots, np.int64))
        if not len(values):
            return Intervals()
        gaps = np.flatnonzero(np.diff(values) > 1)
        starts = values[np.concatenate([[0], gaps + 1])]
        stops = values[np.concatenate([gaps, [-1]])] + 1
        return Intervals(tuple(zip(starts.tolist(), stops.tolist(), strict=True)))

    @staticmethod
    def merge(ranges: Iterable[tuple[int, int]]) -> Intervals:
        """The union of half-open ranges that may overlap; empty ones are left out."""
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(r for r in ranges if r[0] < r[1]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return Intervals(tuple(merged))

    def add(self, slots: Iterable[int]) -> Intervals:
        """This set with more slots."""
        return self.union(Intervals.of(slots))

    def union(self, other: Intervals) -> Intervals:
        """Slots of either."""
        return Intervals.merge((*self.ranges, *other.ranges))

    def complement(self, total: int) -> Intervals:
        """Slots of 0 .. total - 1 that are not in this set."""
        edges = [0]
        for start, stop in self.ranges:
            edges += [min(max(start, 0), total), min(max(stop, 0), total)]
        edges.append(total)
        return Intervals.merge(zip(edges[::2], edges[1::2], strict=True))

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    def __contains__(self, slot: object) -> bool:
        if not isinstance(slot, (int, np.integer)):
            return False
        place = bisect.bisect_right(self.ranges, slot, key=lambda r: r[0]) - 1
        return place >= 0 and int(slot) < self.ranges[place][1]

    def __iter__(self) -> Iterator[int]:
        for start, stop in self.ranges:
            yield from range(start, stop)

    @property
    def is_prefix(self) -> bool:
        """Whether the slots are exactly 0 .. n - 1."""
        return not self.ranges or (len(self.ranges) == 1 and self.ranges[0][0] == 0)

    def to_json(self) -> str:
        """A JSON list of [start, stop] pairs."""
        return json.dumps([list(r) for r in self.ranges])

    def difference(self, other: Intervals) -> Intervals:
        """Slots of this set that are not in the other one."""
        total = max((stop for _, stop in self.ranges), default=0)
        return self.complement(total).union(other).complement(total)

    @staticmethod
    def from_json(text: str | bytes) -> Intervals:
        """Read `to_json`.

        Raises:
            InputError: not a list of sorted, disjoint pairs of whole numbers.
        """
        values = parse_json(text, "consumed.json does not hold intervals: it")
        try:
            ranges = tuple((start, stop) for start, stop in values)
            valid = all(type(value) is int and 0 <= value < 1 << 62 for r in ranges for value in r)
            valid = valid and Intervals.merge(ranges).ranges == ranges
        except (TypeError, ValueError) as error:
            raise InputError(f"consumed.json does not hold intervals: {error}") from error
        if not valid:
            raise InputError("consumed.json does not hold intervals: expected sorted, disjoint pairs of whole numbers")
        return Intervals(ranges)
