"""Docstrings in plain words: some words mark a sentence that a reader must decode, and have a limit per room.

CONTRIBUTING.md lists them with the plain form of each.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIMITS = {"where": 1.5, "what": 0.8, "alone": 0.1, "whoever": 0.0, "nobody": 0.0, "wherever": 0.0}
"""Most uses per 1,000 words of docstrings. Libraries of the field have 0.6 to 1.9 "where" and up to 0.6 "what"."""
ROOMS = (
    "echodfkd/config",
    "echodfkd/core",
    "echodfkd/evaluation",
    "echodfkd/losses",
    "echodfkd/metrics",
    "echodfkd/models",
    "echodfkd/reporting",
    "echodfkd/runtime",
    "echodfkd/sources",
    "echodfkd/storage",
    "echodfkd/teaching",
    "echodfkd/training",
    "jobs",
)
"""Rooms that keep the limits."""


def docstring_words(source: str) -> list[str]:
    """Lower-case words of every string that stands as a statement: docstrings of modules, functions and attributes."""
    texts = [
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return [word.lower() for text in texts for word in re.findall(r"[A-Za-z']+", text)]


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_use_plain_words(room: str) -> None:
    found = {path: Counter(docstring_words(path.read_text())) for path in sorted((ROOT / room).rglob("*.py"))}
    total = sum(sum(words.values()) for words in found.values())
    faults = []
    for word, limit in LIMITS.items():
        count = sum(words[word] for words in found.values())
        allowed = max(limit * total / 1000, 1.0 if limit else 0.0)  # one use is fine in a small room
        if count > allowed:
            worst = sorted(found, key=lambda path: -found[path][word])[:5]
            files = ", ".join(f"{path.relative_to(ROOT)} ({found[path][word]})" for path in worst if found[path][word])
            faults.append(f"{word!r} {count} times in {total} words, at most {allowed:.1f}: {files}")
    assert not faults, f"docstrings of {room}, see the word list in CONTRIBUTING.md: " + "; ".join(faults)


def test_words_are_counted_in_every_docstring_and_nowhere_else() -> None:
    source = (
        '"""What."""\nX = 1\n"""Where it\'s\nalone."""\n\n\ndef f():\n    """Nobody."""\n    return "what"  # what\n'
    )
    assert docstring_words(source) == ["what", "where", "it's", "alone", "nobody"]
