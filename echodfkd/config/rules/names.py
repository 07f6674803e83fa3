"""Names of all options of a run, and those that a wrong name may have meant."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from echodfkd.config.run import RunConfig

MOST_MEANT = 3
"""Names that one sentence suggests."""

MISSED = {
    "sees.view": "another view is another cut through the heart, so that its masks cannot be mapped to the student's"
    " frames",
}
"""Options that a reader may look for, by the end of their names, and the reason that there is none."""


@functools.cache
@functools.cache
def declared_types(kind: Any) -> Mapping[str, Any]:
    """The types of a section's options by name."""
    return typing.get_type_hints(kind)


def type_at(names: Sequence[str]) -> Any:
    """The declared type of the option that these parts of a dotted name lead to; None if there is none."""
    kind: Any = RunConfig
    for name in names:
        if dataclasses.is_dataclass(kind):
            kind = declared_types(typing.cast(Any, kind)).get(name)
        else:
            kind = typing.get_args(kind)[-1] if typing.get_origin(kind) is dict else None
    return kind


def inner_sections(section: type) -> dict[str, tuple[type, str]]:
    """Fields that hold sections: the class, and the suffix of its name (.NAME in a mapping, [i] in a list)."""
    found: dict[str, tuple[type, str]] = {}
    for name, kind in declared_types(section).items():
        collection = typing.get_origin(kind)
        inner: Any = typing.get_args(kind)[-1] if collection in (dict, list) else kind
        if dataclasses.is_dataclass(inner):
            key = ".TERM" if name == "objective" else ".NAME"
            found[name] = (typing.cast(type, inner), key if collection is dict else "[i]" if collection is list else "")
    return found


@functools.cache
def sections() -> dict[str, type]:
    """Every section's class by its dotted name; "" is the run. NAME and TERM stand for names that a config chooses."""
    found: dict[str, type] = {}

    def collect(section: type, name: str) -> None:
        found[name] = section
        for field, (inner, suffix) in inner_sections(section).items():
            collect(inner, f"{name}.{field}{suffix}".lstrip("."))

    collect(RunConfig, "")
    return found


@functools.cache
def option_names() -> tuple[str, ...]:
    """Dotted names of all options and sections."""
    return tuple(
        f"{name}.{field.name}".lstrip(".") for name, kind in sections().items() for field in dataclasses.fields(kind)
    )


def meant(name: str) -> list[str]:
    """Options that a wrong dotted name may have meant: at another place, spelled almost like it, or begun with it."""
    start, _, last = name.rpartition(".")
    elsewhere = [option for option in option_names() if not start and option.endswith(f".{last}")]
    if elsewhere:
        return sorted(elsewhere, key=lambda option: ("NAME" in option, option.count(".")))[:MOST_MEANT]
    inside = [option.rpartition(".")[2] for option in option_names() if is_place(option.rpartition(".")[0], start)]
    found = difflib.get_close_matches(last, inside, n=MOST_MEANT)
    found = found or [word for word in inside if word.startswith(last)][:MOST_MEANT]
    if found:
        return [f"{start}.{word}".lstrip(".") for word in dict.fromkeys(found)]
    return difflib.get_close_matches(name, option_names(), n=1, cutoff=0.75)


def suggestion(name: str) -> str:
    """The end of a sentence about an unknown option: why there is none, or those like it; "" if none is."""
    for missed, reason in MISSED.items():
        if name.endswith(f".{missed}"):
            return f"; {reason}"
    return f"; did you mean {' or '.join(found)}?" if (found := meant(name)) else ""


def is_place(place: str, name: str) -> bool:
    """Whether ``name``, in which a config's own names may stand, is this place."""
    pattern = re.escape(place).replace("NAME", "[^.]+").replace("TERM", "[^.]+").replace(r"\[i\]", r"\[\d+\]")
    return bool(re.fullmatch(pattern, name))
