"""Facts about a data set that a user must know before anything trains: a count and one example each.

A source gathers them while it is built, and has them as ``notes``. Jobs print them, keep them in run.json and show them
in the report. A fault that makes the whole data set useless is an `InputError` instead.
"""

from __future__ import annotations

from echodfkd.core.errors import plain_sentence

MAX_EXAMPLE = 120
"""Most characters of an example: it quotes the data set."""


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
