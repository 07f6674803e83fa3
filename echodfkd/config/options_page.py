"""The page of all options, made from their declarations: python -m echodfkd.config.options_page prints it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from typing import Any

from echodfkd.config.identity import difference
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import declaration

_HEADER = """# Options

Every option of a run: one YAML file over these defaults, then `key=value` overrides. Values are those of YAML 1.2,
held to the type in the table: `yes`, `017` and `1:30` are text, the empty text is `''`. Paths take no `~`. NAME and
TERM stand for names that the file chooses. Written by `python -m echodfkd.config.options_page` from the declarations in
`echodfkd/config/sections/`; do not edit.
"""

_MOST_NAMES = 3
"""Names in a table's heading; its section may stand in many places."""


def options_page() -> str:
    """The page as Markdown: a table for each section."""
    places: dict[type, list[str]] = {}
    _collect(RunConfig, "", places)
    return "\n".join([_HEADER, *(_table(section, names) for section, names in places.items())])


def _collect(section: type, name: str, places: dict[type, list[str]]) -> None:
    """Add the section called ``name``, its bases and the sections in it to ``places``: names by class."""
    for base in reversed(section.__mro__):
        if dataclasses.is_dataclass(base):
            places.setdefault(base, []).append(name)
    for field, (inner, suffix) in _inner_sections(section).items():
        _collect(inner, f"{name}.{field}{suffix}".lstrip("."), places)


def _inner_sections(section: type) -> dict[str, tuple[type, str]]:
    """Fields that hold sections: the class, and the suffix of its name (.NAME in a mapping, [i] in a list)."""
    found: dict[str, tuple[type, str]] = {}
    for name, kind in typing.get_type_hints(section).items():
        collection = typing.get_origin(kind)
        inner: Any = typing.get_args(kind)[-1] if collection in (dict, list) else kind
        if dataclasses.is_dataclass(inner):
            key = ".TERM" if name == "objective" else ".NAME"
            found[name] = (typing.cast(type, inner), key if collection is dict else "[i]" if collection is list else "")
    return found


def _table(section: type, names: list[str]) -> str:
    """Heading, summary and table of the options that a class itself declares."""
    listed = ", ".join(f"`{name}`" for name in names[:_MOST_NAMES]) + (" …" if len(names) > _MOST_NAMES else "")
    summary, explained, inner = _summary(section), explanations(section), _inner_sections(section)
    rows = []
    for field in dataclasses.fields(section):
        if field.name not in inspect.get_annotations(section):
            continue
        meaning = explained.get(field.name) or _summary(inner[field.name][0]).splitlines()[0]
        cells = (f"`{field.name}`", _default(field), _allowed(field, inner), _one_line(meaning))
        rows.append(f"| {' | '.join(cells)} |")
    head = ["| option | default | allowed | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {listed if names != [''] else 'The run'}", "", summary, "", *head, *rows, ""])


def explanations(section: type) -> dict[str, str]:
    """The docstring below each field of a class, by the field's name."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = str(below.value.value)
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    made: Any = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if dataclasses.is_dataclass(made):
        made = difference(made) or ""  # the rest stands in the section's own table
    text = made if isinstance(made, str) else "" if made is None else json.dumps(made, ensure_ascii=False)
    return f"`{text}`" if text else ""


def _allowed(field: dataclasses.Field[Any], inner: dict[str, tuple[type, str]]) -> str:
    declared = declaration(field)
    if field.name in inner:
        return "section"
    kind = str(field.type).removesuffix(" | None")
    most = "" if declared.ceiling is None else f"at most {declared.ceiling}"
    bounds = ", ".join(part for part in (declared.bounds, most) if part)
    return _one_line(declared.words or declared.expected or f"{kind} {bounds}".strip())


def _summary(section: type) -> str:
    return _escaped(inspect.cleandoc(section.__doc__ or ""))


def _one_line(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("``", "`").replace("<", "&lt;")


if __name__ == "__main__":
    print(options_page(), end="")
