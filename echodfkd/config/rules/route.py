"""Checks of `teacher.route`, and its ranges of numbers."""

from __future__ import annotations

import math
from itertools import pairwise

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import GENERATORS
from echodfkd.config.sections.route import CERTAINTY, OF_NUMBERS, RouteConfig
from echodfkd.config.sections.source import CHOICES, DOMAIN_NAMES, RECORDED_KINDS
from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.core.errors import ConfigError

_DOMAINS = (*DOMAIN_NAMES, "echonet", *(kind for kind in RECORDED_KINDS if kind != "recorded"), *GENERATORS)
"""Every ``domain`` of a clip."""


def check_route(option: str, teacher: TeacherConfig, config: RunConfig) -> None:
    """Refuse routes that lead nowhere.

    Args:
        option: the teacher's name in the config.
        teacher: with ``route``.
        config: the run.

    Raises:
        ConfigError: names the option.
    """
    route, where = teacher.route, f"{option}.route"
    if not route.by:
        if route != RouteConfig():
            raise ConfigError(f"{where}.by: empty, but {where}.to or .default is set; name what clips are routed by")
        return
    if not route.to or not route.default:
        name = "default" if route.to else "to"
        raise ConfigError(
            f"{where}.{name}: empty, but {where}.by is {route.by}; name members of {option}.members:"
            f" {', '.join(teacher.members)}"
        )
    for name, members in {**{f"to.{value}": to for value, to in route.to.items()}, "default": route.default}.items():
        if unknown := [one for one in members_of(members) if one not in teacher.members]:
            raise ConfigError(
                f"{where}.{name}: got {unknown[0]!r}, allowed are members of {option}.members:"
                f" {', '.join(teacher.members)}"
            )
    _check_gate(option, teacher, config)
    if route.by in (*OF_NUMBERS, CERTAINTY):
        _check_ranges(where, route)
        return
    allowed = {**CHOICES, "domain": _DOMAINS, "source": tuple(route.to)}[route.by]
    if unknown := [value for value in route.to if value not in allowed]:
        raise ConfigError(f"{where}.to: got {unknown[0]!r}, but {route.by} is one of {', '.join(allowed)}")


def _check_gate(option: str, teacher: TeacherConfig, config: RunConfig) -> None:
    route, where = teacher.route, f"{option}.route"
    if route.by != CERTAINTY:
        if route.gate:
            raise ConfigError(f"{where}.gate: set, but {where}.by is {route.by}; only {CERTAINTY} has a gate")
        return
    if route.gate not in teacher.members:
        raise ConfigError(
            f"{where}.gate: got {route.gate!r}, allowed are members of {option}.members: {', '.join(teacher.members)}"
        )
    if config.source.generated:
        raise ConfigError(f"{where}.by: got {CERTAINTY}, but a generator makes clips after they are drawn; remove it")


def check_routed_parts(config: RunConfig) -> None:
    """Refuse routes of parts that the source of the training clips does not have. Raises `ConfigError`."""
    route, parts = config.teacher.route, config.source.parts
    if route.by == "source" and (unknown := [name for name in route.to if name not in parts]):
        there = f"source.parts has {', '.join(parts)}" if parts else f"source.kind is {config.source.kind}"
        raise ConfigError(f"teacher.route.to: got {unknown[0]!r}, but {there}")


def members_of(route: str) -> list[str]:
    """Names of the members of a route."""
    return [name.strip() for name in route.split(",")]


def range_of(text: str, option: str = "teacher.route") -> tuple[float, float]:
    """LOW and HIGH of a range LOW..HIGH; infinite if it is left out. Raises `ConfigError`."""
    low, dots, high = text.partition("..")
    try:
        found = float(low or -math.inf), float(high or math.inf)
    except ValueError:
        found = math.nan, math.nan
    if not dots or not found[0] < found[1]:
        raise ConfigError(f"{option}.to: got {text!r}, expected a range LOW..HIGH with LOW below HIGH, e.g. 0.5..")
    return found


def _check_ranges(option: str, route: RouteConfig) -> None:
    ranges = sorted((range_of(text, option), text) for text in route.to)
    for ((_, high), first), ((low, _), second) in pairwise(ranges):
        if low < high:
            raise ConfigError(f"{option}.to: {first} and {second} overlap, a clip has one route")
