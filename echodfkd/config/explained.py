"""Options in words, from their declarations: default, allowed values, meaning; and the text of ``--help SECTION``."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from echodfkd.config.identity import difference
from echodfkd.config.rules.names import inner_sections, is_place, sections, suggestion
from echodfkd.config.sections.option import declaration
from echodfkd.core.errors import ConfigError

WIDTH = 100
"""Characters of a line of help."""


@dataclass(frozen=True)
class Explained:
    """One option in words."""

    name: str
    default: str
    allowed: str
    meaning: str


def explained_options(section: type, *, own: bool = False) -> list[Explained]:
    """The options of a section's class; ``own``: without those of its base classes."""
    inner, found = inner_sections(section), []
    words = {name: text for base in reversed(section.__mro__) for name, text in explanations(base).items()}
    for field in dataclasses.fields(section):
        if own and field.name not in inspect.get_annotations(section):
            continue
        meaning = words.get(field.name) or section_summary(inner[field.name][0]).splitlines()[0]
        allowed = "section" if field.name in inner else _allowed(field)
        found.append(Explained(field.name, _default(field), allowed, " ".join(meaning.split())))
    return found


@functools.cache
def explanations(section: type) -> dict[str, str]:
    """The docstring below each field of a class, by the field's name."""
    if not dataclasses.is_dataclass(section):
        return {}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = str(below.value.value)
    return found


def section_summary(section: type) -> str:
    """A section's docstring."""
    return inspect.cleandoc(section.__doc__ or "")


def _default(field: dataclasses.Field[Any]) -> str:
    made: Any = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if dataclasses.is_dataclass(made):
        made = difference(made) or ""  # the rest stands in the section's own table
    return made if isinstance(made, str) else "" if made is None else json.dumps(made, ensure_ascii=False)


def _allowed(field: dataclasses.Field[Any]) -> str:
    declared = declaration(field)
    kind = str(field.type).removesuffix(" | None")
    most = "" if declared.ceiling is None else f"at most {declared.ceiling}"
    bounds = ", ".join(part for part in (declared.bounds, most) if part)
    return declared.words or declared.expected or f"{kind} {bounds}".strip()


def options_help(name: str) -> list[str]:
    """Lines about a section with all its options, or about one option.

    Args:
        name: dotted, e.g. train, train.steps, students.a.objective; NAME stands for any name that a config chooses.

    Raises:
        ConfigError: no option is called so.
    """
    for place, section in sections().items():
        if place and (is_place(place, name) or is_place(place.removesuffix(".NAME").removesuffix(".TERM"), name)):
            lines = textwrap.wrap(f"{place}: {section_summary(section).replace('``', '')}", WIDTH)
            return [*lines, *(line for one in explained_options(section) for line in _lines(place, one))]
        for one in explained_options(section):
            if one.allowed != "section" and is_place(f"{place}.{one.name}".lstrip("."), name):
                return list(_lines(place, one))[1:]
    raise ConfigError(f"--help {name}: no option or section has this name{suggestion(name)}")


def _lines(place: str, one: Explained) -> Iterator[str]:
    """An option's name, default and allowed values on a line, and its meaning below."""
    name = f"{place}.{one.name}".lstrip(".")
    yield ""
    yield f"{name}    {one.allowed}" + (f"    default: {one.default}" if one.default else "")
    indent = "    "
    yield from textwrap.wrap(one.meaning.replace("``", ""), WIDTH, initial_indent=indent, subsequent_indent=indent)
