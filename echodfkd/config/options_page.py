"""The page of all options, made from their declarations: python -m echodfkd.config.options_page prints it."""

from __future__ import annotations

import dataclasses

from echodfkd.config.explained import explained_options, section_summary
from echodfkd.config.rules.names import inner_sections
from echodfkd.config.run import RunConfig

_HEADER = """# Options

Every option of a run: one YAML file over these defaults, then `key=value` overrides. Values are those of YAML 1.2,
held to the type in the table: `yes`, `017` and `1:30` are text, the empty text is `''`. Paths take no `~`. NAME and
TERM stand for names that the file chooses. A mapping of such names (students, parts, members, terms) and a distribution
replace the ones of the file: `'students={a: {}}'` leaves one student, `students.a.blocks=2` adds or changes one. A
section (`train={steps: 9}`) is merged. Written by `python -m echodfkd.config.options_page` from the declarations in
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
    for field, (inner, suffix) in inner_sections(section).items():
        _collect(inner, f"{name}.{field}{suffix}".lstrip("."), places)


def _table(section: type, names: list[str]) -> str:
    """Heading, summary and table of the options that a class itself declares."""
    listed = ", ".join(f"`{name}`" for name in names[:_MOST_NAMES]) + (" …" if len(names) > _MOST_NAMES else "")
    rows = []
    for one in explained_options(section, own=True):
        cells = (f"`{one.name}`", f"`{one.default}`" if one.default else "", _cell(one.allowed), _cell(one.meaning))
        rows.append(f"| {' | '.join(cells)} |")
    head = ["| option | default | allowed | meaning |", "|---|---|---|---|"]
    title = listed if names != [""] else "The run"
    return "\n".join([f"## {title}", "", _escaped(section_summary(section)), "", *head, *rows, ""])


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("``", "`").replace("<", "&lt;")


if __name__ == "__main__":
    print(options_page(), end="")
