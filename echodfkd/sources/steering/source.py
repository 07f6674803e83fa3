"""The source of a steered run: each index shows the patient that the law of its slot asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from echodfkd.config.sections.sees import SeesConfig
from echodfkd.core.errors import RunError
from echodfkd.core.records import VideoClip
from echodfkd.sources.generated.source import GeneratedSource
from echodfkd.sources.mixture import MixtureSource
from echodfkd.sources.phantom.source import PhantomSource
from echodfkd.sources.steering.laws import Timetable, first_laws
from echodfkd.sources.steering.plan import Place, SteeringPlan
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.storage.steering import Law, read_laws


class StoredLaws:
    """The laws of a run, from its folder's newest checkpoint; read again only for a law that is newer.

    Args:
        root: the run folder.
        first: the laws before the first checkpoint.
    """

    def __init__(self, root: str, first: tuple[Law, ...]) -> None:
        self._storage = RunStorage(root)
        self._laws = first

    def __call__(self, number: int) -> Law:
        """Law ``number``. Raises `RunError` if no checkpoint holds it yet."""
        if number >= len(self._laws):
            newest = latest_checkpoint(self._storage)
            strata = len(self._laws[0].weights)
            self._laws = read_laws(self._storage, newest, strata).laws if newest is not None else self._laws
            if number >= len(self._laws):
                raise RunError(
                    f"source.steering: a clip of law {number} was asked for before a checkpoint of"
                    f" {self._storage.root} held that law"
                )
        return self._laws[number]


class SteeredSource:
    """A source whose patients follow a law (see `echodfkd.sources.clip_source.ClipSource`). Cases are not steered.

    Args:
        source: makes the clips.
        plan: which patient an index shows.
        times: which law draws an index.
        laws: by number.
    """

    def __init__(
        self,
        source: PhantomSource | GeneratedSource | MixtureSource,
        plan: SteeringPlan,
        times: Timetable,
        laws: Callable[[int], Law],
    ) -> None:
        self.source = source
        self.name, self.notes = source.name, source.notes
        self.plan, self._times, self._laws = plan, times, laws

    @property
    def num_cases(self) -> int | None:
        """As of the source."""
        return self.source.num_cases

    def clip(self, index: int) -> VideoClip:
        """Training window ``index``. See `ClipSource.clip`. A clip that comes back keeps its id."""
        place = self.place(index)
        part, number = self.plan.origin(place.index, place.draw)
        if isinstance(self.source, MixtureSource):
            clip = self.source.drawn(index, part, number, place.draw)
        else:
            clip = self.source.clip(number, place.draw)
        return dataclasses.replace(clip, index=index, stratum=self.plan.name(place.stratum))

    def seen_as(self, sees: SeesConfig) -> SteeredSource:
        """The source of the same clips in another rendering, which only a phantom has."""
        assert not isinstance(self.source, GeneratedSource), "check_sees: generated clips have one rendering"
        return SteeredSource(self.source.seen_as(sees), self.plan, self._times, self._laws)

    def case(self, index: int) -> VideoClip:
        """Evaluation case ``index``."""
        return self.source.case(index)

    def place(self, index: int) -> Place:
        """The clip that an index shows."""
        return self.plan.place(index, self._laws(self._times.law(index)))


def steered(
    source: PhantomSource | GeneratedSource | MixtureSource, plan: SteeringPlan, times: Timetable, root: str
) -> SteeredSource:
    """The source of a run in the folder ``root``."""
    return SteeredSource(source, plan, times, StoredLaws(root, first_laws(plan.source, plan.shares, times)))
