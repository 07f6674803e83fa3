"""The members of an ensemble that teach a clip (`teacher.route`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from echodfkd.config.rules.route import members_of, range_of
from echodfkd.config.sections.route import CERTAINTY, OF_NUMBERS, RouteConfig
from echodfkd.core.records import VideoClip
from echodfkd.models.teachers.protocol import ClipKey, Teacher
from echodfkd.teaching.fusion import certainty


@dataclass(frozen=True)
class Router:
    """Finds the route of a clip; ``gate`` gives the member that decides, if one does."""

    route: RouteConfig = field(default_factory=RouteConfig)
    gate: Callable[[], Teacher] | None = None

    def __call__(self, clip: VideoClip) -> str:
        """The route of a clip, names of members with commas between them; "" if all members teach every clip."""
        route = self.route
        if not route.by:
            return ""
        value = self._value(clip)
        if route.by not in (*OF_NUMBERS, CERTAINTY):
            return route.to.get(str(value), route.default)
        for text, members in route.to.items():
            low, high = range_of(text)
            if value is not None and low <= float(value) < high:
                return members
        return route.default

    def _value(self, clip: VideoClip) -> str | float | None:
        """The property that decides; None if it is unknown."""
        if self.route.by == CERTAINTY:
            return self._certainty(clip)
        known: str | float | None = getattr(clip if hasattr(clip, self.route.by) else clip.conditions, self.route.by)
        return known

    def _certainty(self, clip: VideoClip) -> float | None:
        """How certain the gate is of the ventricle in this clip; None if it has no mask of it."""
        assert self.gate is not None, "check_route: route.gate"
        shown = clip.video if clip.seen_video is None else clip.seen_video
        key = ClipKey(clip.seen_id or clip.clip_id, clip.index, clip.window_start)
        output = self.gate().teach(shown[None], [key], classes=("LV",))
        return None if output.faults else certainty(np.asarray(output.masks))


def teaches(member: str, route: str) -> bool:
    """Whether a member teaches the clips of this route."""
    return not route or member in members_of(route)
