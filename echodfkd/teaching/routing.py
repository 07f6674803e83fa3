"""The members of an ensemble that teach a clip (`teacher.route`)."""

from __future__ import annotations

from echodfkd.config.rules.route import members_of, range_of
from echodfkd.config.sections.route import OF_NUMBERS, RouteConfig
from echodfkd.core.records import VideoClip


def route_of(clip: VideoClip, route: RouteConfig) -> str:
    """The route of a clip, the names of its members with commas between them; "" if all members teach every clip."""
    if not route.by:
        return ""
    value = getattr(clip if hasattr(clip, route.by) else clip.conditions, route.by)
    if value is None:
        return route.default
    if route.by not in OF_NUMBERS:
        return route.to.get(value, route.default)
    for text, members in route.to.items():
        low, high = range_of(text)
        if low <= value < high:
            return members
    return route.default


def teaches(member: str, route: str) -> bool:
    """Whether a member teaches the clips of this route."""
    return not route or member in members_of(route)
