"""Short forms of a source's distributions in config files, and the shortened dump of a source.

Short ways: ``ef_percent: 35`` for ``{value: 35}``, ``ef_percent: [20, 40]`` for ``{low: 20, high: 40}``,
``view: A2C`` for ``{value: A2C}`` and ``view: {A4C: 0.7, A2C: 0.3}`` for ``{shares: {...}}``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from echodfkd.config.sections.generator import GENERATORS
from echodfkd.config.sections.source import (
    CHOICES,
    NUMERIC,
    RECORDED_KINDS,
    ChoiceSpec,
    ConditionSpec,
    PartConfig,
    SourceConfig,
)
from echodfkd.core.errors import ConfigError


class Whole(dict[str, Any]):
    """A mapping that is given as a whole, e.g. students={a: {}}: it replaces the one below it, and is not merged."""


def sources_in(values: Any) -> list[dict[str, Any]]:
    """The sources in a config's plain values."""
    evaluation = values.get("evaluation")
    found = [values.get("source"), evaluation.get("source") if isinstance(evaluation, dict) else None]
    return [source for source in found if isinstance(source, dict)]


def expand_source(source: dict[str, Any]) -> None:
    """Write short ways out, in place. Raises `ConfigError`."""
    for conditions in _conditions_in(source):
        for name in NUMERIC:
            if name in conditions:
                conditions[name] = _expand_number(f"conditions.{name}", conditions[name])
        for name, words in CHOICES.items():
            value = conditions.get(name)
            if isinstance(value, str):
                conditions[name] = Whole(value=value)
            elif isinstance(value, dict) and value and set(value) <= set(words):
                conditions[name] = type(value)(shares=value)


def replace_distributions(source: dict[str, Any]) -> None:
    """Let a distribution that is given replace the default's as a whole, in place: its other options are unset."""
    for conditions in _conditions_in(source):
        for names, empty in ((NUMERIC, ConditionSpec()), (tuple(CHOICES), ChoiceSpec())):
            for name in names:
                if isinstance(conditions.get(name), dict):
                    conditions[name] = {**dataclasses.asdict(empty), **conditions[name]}


def shorten_source(source: dict[str, Any]) -> None:
    """Drop unset options of distributions and the patients of a source that draws none, in place."""
    for conditions in _conditions_in(source):
        for name in (*NUMERIC, *CHOICES):
            conditions[name] = _without_unset(conditions[name])
        conditions["stratify"] = _without_unset(conditions["stratify"])
    parts = source.get("parts", {})
    for part in (source, *parts.values()):
        if part["kind"] in (*RECORDED_KINDS, "mixture"):
            del part["conditions"]
        if part["kind"] not in GENERATORS:
            del part["generator"]
        if not part["view"]:
            del part["view"]
    if not parts:
        del source["parts"]


def map_parts(source: SourceConfig, change: Callable[[str, PartConfig], PartConfig]) -> SourceConfig:
    """The source with ``change(suffix, part)`` in place of itself and each of its parts ("" and ".parts.NAME")."""
    changed = change("", source)
    assert isinstance(changed, SourceConfig)
    parts: dict[str, Any] = {name: change(f".parts.{name}", part) for name, part in source.parts.items()}
    return dataclasses.replace(changed, parts=parts)


def _conditions_in(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plain conditions of a source and of its parts."""
    parts = source.get("parts")
    for part in (source, *(parts.values() if isinstance(parts, dict) else ())):
        if isinstance(part, dict) and isinstance(part.get("conditions"), dict):
            yield part["conditions"]


def _expand_number(option: str, value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Whole(value=value)
    if isinstance(value, list):
        if len(value) != 2:
            raise ConfigError(f"{option}: got a list of {len(value)}, expected [low, high]")
        return Whole(low=value[0], high=value[1])
    if isinstance(value, dict) and isinstance(value.get("mixture"), list):
        return type(value)(
            {**value, "mixture": [_expand_number(f"{option}.mixture", part) for part in value["mixture"]]}
        )
    return value


def _without_unset(values: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if value not in (None, "", [], {})}
    if "mixture" in kept:
        kept["mixture"] = [_without_unset(part) for part in kept["mixture"]]
    return kept
