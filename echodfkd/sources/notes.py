"""Facts about a data set that a user must know before anything trains: a count and one example each.

A source gathers them while it is built, and has them as ``notes``. Jobs print them, keep them in run.json and show them
in the report. A fault that makes the whole data set useless is an `InputError` instead.
"""

from __future__ import annotations

from collections.abc import Callable

from echodfkd.core.errors import ClipError, plain_sentence
from echodfkd.core.records import VideoClip

MAX_EXAMPLE = 200
"""Most characters of an example: it quotes the data set."""
FIRST_CLIPS = 4
"""Clips that are made before a job starts, to find faults that no list shows."""


class Notes:
    """Sentences like ``rows of FileList.csv with a blank Split: 3 (first: line 7, 'P3')``."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, str]] = {}
        self._said: dict[str, None] = {}

    def count(self, fact: str, example: str, times: int = 1) -> None:
        """Count a fact; the first example is kept."""
        before, first = self._counts.get(fact, (0, example))
        self._counts[fact] = before + times, first

    def say(self, sentence: str) -> None:
        """Add a sentence that has no count."""
        self._said[sentence] = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of them, in one line each."""
        counted = (f"{fact}: {count} (first: {text[:MAX_EXAMPLE]})" for fact, (count, text) in self._counts.items())
        return tuple(plain_sentence(sentence) for sentence in (*self._said, *counted))


def first_look(make: Callable[[int], VideoClip], available: int | None, unit: str) -> tuple[str, ...]:
    """Make the first clips and say which cannot be used, and warnings on the others.

    Args:
        make: the source's ``clip`` or ``case``.
        available: how many there are; None if there is no end to them.
        unit: clips or cases.
    """
    count = FIRST_CLIPS if available is None else min(FIRST_CLIPS, available)
    notes = Notes()
    for index in range(count):
        try:
            clip = make(index)
        except ClipError as error:
            notes.count(f"of the first {count} {unit}, those that cannot be used", str(error))
            continue
        for warning in clip.warnings:
            notes.count(f"warnings on the first {count} {unit}", warning)
    return notes.sentences
