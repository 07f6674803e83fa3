"""Declare an option in one place: its default, its bounds or choices, and how a run treats it.

Checks (`rules.values`), absolute paths, the run's identity (`config.identity`) and the page of options
(docs/reference/options.md) follow from these declarations by walking over a config.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass
from typing import Any, TypeVar

Section = TypeVar("Section")

DAY_S = 86_400
MOST_CPUS = 4096
MOST_ACTORS = 4096
MOST_STEPS = 10**8
MOST_WEIGHT = 1_000_000
MOST_SEED = 1 << 52
"""Ceilings that many options share."""
CPUS = {"least": 0, "ceiling": MOST_CPUS, "identity": False}
GPUS = {"least": 0, "ceiling": 1024, "whole_above_1": True, "identity": False}
"""Declarations of the resources of one process."""

NO_DEVICE = r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$))"
"""Start of the pattern of every name that becomes a folder: Windows, and shares of its kind, keep these for devices."""
RUN_NAME = NO_DEVICE + r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"

NODE_LABEL = {"pattern": r"([^=\s]+=[^=\s]+)?", "expected": "key=value, e.g. pool=teacher", "identity": False}
"""Declaration of every node_label."""


@dataclass(frozen=True)
class Declaration:
    """Facts about one option beside its type and default. Bounds and choices hold for each element of a collection."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    ceiling: float | None = None
    """A bound above all that a machine or a run has, to find slips of the pen; said only to values above it."""
    choices: tuple[object, ...] = ()
    pattern: str = ""
    """Regular expression that the whole text matches; ``expected`` says it in words."""
    expected: str = ""
    whole_above_1: bool = False
    """Above 1 only whole numbers: Ray divides one GPU among processes, and gives no process one and a half."""
    path: str = ""
    """input (a file that the user has) or output (a folder that a run writes); empty if the option is no path."""
    address: bool = False
    """A host that the process connects to."""
    outside: tuple[object, ...] = ()
    """Choices that reach out of the config even if nothing else is named: a download, a host, a file that runs code."""
    identity: bool = True
    """Part of the run's identity: another value gives other numbers."""
    needs: str = ""
    """Attribute of the same section without which the option has no effect, and is no part of the identity."""

    @property
    def bounds(self) -> str:
        """The range in words, e.g. "at least 1", "above 0", "0 .. 1" or "0 <= value < 1"; empty if unbounded."""
        low = self.least if self.above is None else self.above
        high = self.most if self.below is None else self.below
        if low is not None and high is not None:
            if self.above is None and self.below is None:
                return f"{low} .. {high}"
            return f"{low} {'<=' if self.above is None else '<'} value {'<=' if self.below is None else '<'} {high}"
        if low is not None:
            return f"at least {low}" if self.above is None else f"above {low}"
        return "" if high is None else f"at most {high}" if self.below is None else f"below {high}"

    @property
    def words(self) -> str:
        """The allowed choices; the empty text stands for no choice and is not listed."""
        return ", ".join(str(choice) for choice in self.choices if choice != "")

    def reaches_out(self, value: Any) -> bool:
        """Whether this value names a file, a folder, a host or a download: not obeyed in a config of a stranger."""
        return bool(value) and (bool(self.path) or self.address or value in self.outside)

    def fault(self, value: Any) -> str:
        """The end of an error sentence, with the allowed values; "" if the value is allowed."""
        if self.choices and value not in self.choices:
            return f"allowed are {self.words}"
        if not (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        ):
            return f"must {'lie in' if self.bounds[0] in '-0123456789' else 'be'} {self.bounds}"
        if self.ceiling is not None and value > self.ceiling:
            return f"must be at most {self.ceiling}"
        if self.whole_above_1 and value > 1 and value != int(value):
            return "must be a whole number if it is above 1"
        if self.path and (fault := _path_fault(value)):
            return fault
        return f"expected {self.expected}" if self.pattern and not re.fullmatch(self.pattern, value) else ""


def _path_fault(value: str) -> str:
    """The end of an error sentence if a path cannot mean the same everywhere, else ""."""
    if value != value.strip():
        return "must not begin or end with a blank"
    if value.startswith("~"):
        return "~ is not expanded, because machines differ in it; write the whole path"
    if re.search(r"(^|::)memory:", value):
        return "every process has a memory:// of its own; name a folder or an object store that all of them reach"
    return ""


def option(default: Any = MISSING, *, factory: Any = MISSING, **facts: Any) -> Any:
    """A dataclass field with a `Declaration` of ``facts``; the docstring below the field explains the option."""
    metadata = {"option": Declaration(**facts)}
    if factory is not MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def declaration(field: Field[Any]) -> Declaration:
    """The field's declaration."""
    declared: Declaration = field.metadata.get("option", Declaration())
    return declared


def walk(section: Any, name: str = "") -> Iterator[tuple[str, Declaration, Any]]:
    """Every option of a section and of the sections in it: dotted name, declaration and value.

    Args:
        section: a dataclass.
        name: its own dotted name; empty for a whole config.
    """
    for field in dataclasses.fields(section):
        value, own = getattr(section, field.name), f"{name}.{field.name}" if name else field.name
        yield own, declaration(field), value
        for key, part in elements(own, value):
            if dataclasses.is_dataclass(part):
                yield from walk(part, key)


def elements(name: str, value: Any) -> list[tuple[str, Any]]:
    """The values that an option called ``name`` holds, by their names: of a mapping, of a list, or its one value."""
    if isinstance(value, Mapping):
        return [(f"{name}.{key}", part) for key, part in value.items()]
    if isinstance(value, list):
        return [(f"{name}[{place}]", part) for place, part in enumerate(value)]
    return [(name, value)]


def replace_options(section: Section, change: Callable[[Declaration, Any], Any]) -> Section:
    """The section with ``change(declaration, value)`` in place of every value, also in the sections in it."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(part) for key, part in value.items()}
        if isinstance(value, list):
            return [changed(part) for part in value]
        return replace_options(value, change) if dataclasses.is_dataclass(value) else value

    fields = dataclasses.fields(section)  # type: ignore[arg-type]
    values = {field.name: change(declaration(field), changed(getattr(section, field.name))) for field in fields}
    return dataclasses.replace(section, **values)  # type: ignore[type-var]
