"""Which patient an index shows under a law: a pure function of (seed, index, law).

Numbers of an index are hashes of its key: one says whether its clip comes back from an earlier index, one whether it is
drawn from all patients or from a stratum, one from which. A stratum's patient is the first of the index's own draws 1,
2, 3 ... that lies in it: so a patient within a stratum has the distribution that the conditions have there.
"""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.rules.steering import PART
from echodfkd.config.sections.source import SourceConfig
from echodfkd.core.errors import ConfigError, RunError
from echodfkd.sources.mixture import Schedule, part_counts, part_seed
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.phantom.draws import clip_key, share_of
from echodfkd.sources.steering.strata import LEAST_SHARE, Cells
from echodfkd.storage.steering import Law

COUNTED = 4096
"""Draws from which the strata's shares of the patients are estimated: a share of 2 % to within a tenth of it."""

MOST_DRAWS = 10_000
"""Draws of one index: a stratum of `LEAST_SHARE` is missed by all of them once in 10^21 times."""


@dataclass(frozen=True)
class Place:
    """The clip that an index shows: draw ``draw`` of index ``index``, a patient of ``stratum``."""

    index: int
    draw: int
    stratum: int


@dataclass(frozen=True)
class Choice:
    """The law's decision for an index: a clip that ``comes_back``, a stratum, or (both None) any patient."""

    comes_back: tuple[int, int, int] | None = None
    stratum: int | None = None


class SteeringPlan:
    """Strata and draws of a steered run.

    Args:
        source: the run's, whose `steering` is on.
        seed: of the run.

    Raises:
        ConfigError: fewer than two strata hold patients enough to be drawn.
    """

    def __init__(self, source: SourceConfig, seed: int) -> None:
        self.source = source
        self.cells = Cells.of(source)
        self.names = self.cells.names
        self._seed = seed + source.seed_offset
        parts = source.parts if source.kind == "mixture" else {}
        self._schedule = Schedule(part_counts(source, "source")) if parts else None
        self._samplers = {
            name: ConditionSampler(part.conditions, seed=part_seed(self._seed, name, part.seed_offset))
            for name, part in parts.items()
        } or {"": ConditionSampler(source.conditions, seed=self._seed)}
        self.shares = self._shares()

    @property
    def other(self) -> int:
        """Number of the patients that are in no stratum."""
        return len(self.names)

    def name(self, stratum: int) -> str:
        """A stratum in words (`Cells.names`)."""
        return "other" if stratum == self.other else self.names[stratum]

    def choose(self, index: int, law: Law) -> Choice:
        """What the law says of an index."""
        key, steering = clip_key("steering", self._seed, index), self.source.steering
        if law.again and share_of(key, "again") < steering.again:
            return Choice(comes_back=law.again[int(share_of(key, "which") * len(law.again))])
        if not law.towards or share_of(key, "floor") < steering.floor:
            return Choice()
        u, last = share_of(key, "stratum"), 0
        for number, share in enumerate(law.towards):
            if share > 0:
                last = number
                if u < share:
                    break
                u -= share
        return Choice(stratum=last)

    def measured(self, index: int) -> bool:
        """Whether the clip of an index counts in the signal that laws follow: all, or the share that is judged."""
        steering = self.source.steering
        key = clip_key("steering", self._seed, index)
        return steering.follow != "judge" or share_of(key, "judged") < steering.judged

    def place(self, index: int, law: Law) -> Place:
        """The clip that an index shows."""
        choice = self.choose(index, law)
        if choice.comes_back is not None:
            return Place(*choice.comes_back)
        if choice.stratum is None:
            return Place(index, 0, self._stratum_of(index, 0))
        for draw in range(1, MOST_DRAWS):
            if self._cell(index, draw) == choice.stratum:
                return Place(index, draw, choice.stratum)
        raise RunError(
            f"source.steering: no patient of {self.names[choice.stratum]} among {MOST_DRAWS} of index"
            f" {index}; the law of this clip is not one of these strata"
        )

    def origin(self, index: int, draw: int) -> tuple[str, int]:
        """The part of a mixture ("" without one) that makes a draw of an index, and the number of it there.

        Draw 0 is the schedule's; the part of another is drawn by its weight.
        """
        if self._schedule is None:
            return "", index
        if not draw:
            return self._schedule.part(index)
        at = share_of(clip_key("steering", self._seed, index), f"part {draw}")
        return self._schedule.part(int(at * self._schedule.period))[0], index

    def _stratum_of(self, index: int, draw: int) -> int:
        cell = self._cell(index, draw)
        return cell if self.shares[cell] > 0 else self.other

    def _cell(self, index: int, draw: int, purpose: str = "clip") -> int:
        part, number = self.origin(index, draw)
        names = [name for name in self.cells.axes if name != PART]
        found = self._samplers[part].some(number, names, purpose=purpose, attempt=draw)
        return self.cells.place({**found, PART: part})

    def _shares(self) -> tuple[float, ...]:
        counts = [0] * len(self.names)
        for number in range(COUNTED):
            counts[self._cell(number, 0, "strata")] += 1
        shares = tuple(count / COUNTED if count >= LEAST_SHARE * COUNTED else 0.0 for count in counts)
        if sum(share > 0 for share in shares) < 2:
            raise ConfigError(
                f"source.steering.strata: {sum(share > 0 for share in shares)} of its {len(shares)} strata hold"
                f" {LEAST_SHARE:.1%} of the patients or more, at least 2 must; move the edges"
            )
        return shares
