"""The CSV files of a data set: their text, and their columns by any spelling that leaves no doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from echodfkd.core.errors import InputError
from echodfkd.sources.notes import Notes
from echodfkd.storage.files import read_inside

MAX_LIST_BYTES = 1 << 28
"""Largest CSV file; EchoNet-Dynamic's VolumeTracings.csv has 20 MB."""

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_list(fs: Any, base: str, name: str, where: str) -> str:
    """Text of a CSV file in a folder.

    Raises:
        InputError: it cannot be read, is not UTF-8, or its cells are not separated by commas.
    """
    try:
        text = read_inside(fs, base, name, MAX_LIST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{where} cannot be read: {short(error)}") from error
    head, _ = first_line(text)
    for sign, word in _SEPARATORS.items():
        if sign in head and "," not in head:
            raise InputError(f"{where} separates its cells by {word}, expected commas; save it as CSV with commas")
    return text


def first_line(text: str) -> tuple[str, str]:
    """The first line, and all after it."""
    end = re.search(r"\r\n|\r|\n", text)
    return (text, "") if end is None else (text[: end.start()], text[end.end() :])


def known_columns(
    found: Sequence[str], spellings: Mapping[str, Sequence[str]], needed: Sequence[str], where: str, notes: Notes
) -> dict[str, int]:
    """Place of each column that is read, by its own name.

    Args:
        found: names in the file.
        spellings: a column's own name -> further names, as `_plain` writes them.
        needed: columns without which the file is of no use.
        where: the file, for errors.
        notes: takes names of another spelling and columns that are not read.

    Raises:
        InputError: a needed column is missing, or a column is there twice.
    """
    own = {_plain(name): column for column, names in spellings.items() for name in (column, *names)}
    places: dict[str, int] = {}
    others, file = [], where.rsplit("/", 1)[-1]
    for place, name in enumerate(found):
        column = own.get(_plain(name))
        if column is None:
            others += [name.strip()] if name.strip() else []
        elif column in places:
            raise InputError(f"{where} has the column {column} twice; which one counts?")
        else:
            places[column] = place
            if name != column:
                notes.count(f"columns of {file} with another spelling", f"{name!r} is read as {column}")
    if missing := [column for column in needed if column not in places]:
        raise InputError(f"{where} lacks the columns {', '.join(missing)}; it needs {', '.join(needed)}")
    if others:
        notes.say(f"{file} has columns that are not read: {', '.join(others[:8])}{' ...' if others[8:] else ''}")
    return places


def short(error: Exception) -> str:
    """An error's words in one line."""
    return " ".join(str(error).split())[:300]


def _plain(name: str) -> str:
    """A column's name without case, blanks, brackets and signs between words: "EDV (mL)" is "edvml"."""
    return re.sub(r"[\s_.()\[\]-]+", "", name).lower()
