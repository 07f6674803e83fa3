"""Print lines: the only place that writes to the terminal.

A line may hold foreign text (a file's name, another program's message). It is printed without secrets, and characters
that drive a terminal or reorder its text are escaped, so that a value cannot forge a second line.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO

from echodfkd.core.redaction import redact, redact_values


def escaped(text: str) -> str:
    """The text with every character escaped that is not printable: controls, newlines, marks of direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def print_line(line: str, *, to: TextIO | None = None) -> None:
    """Print one line without secrets, on standard output or on ``to``."""
    stream = to or sys.stdout
    text = escaped(redact(line))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def print_lines(lines: Iterable[str], *, to: TextIO | None = None) -> None:
    """Print lines that are made here, one by one."""
    for line in lines:
        print_line(line, to=to)


def json_line(message: str, **values: Any) -> str:
    """A message as a JSON object on one line, without secrets: the time (UTC), the message, and further values."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps(redact_values({"time": now, "message": message, **values}))


def print_bugs_plainly() -> None:
    """Print tracebacks of uncaught exceptions, which hold other libraries' messages, as lines like any other."""

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print_line("interrupted", to=sys.stderr)
        else:
            print_traceback(error)

    sys.excepthook = show
    threading.excepthook = lambda found: print_traceback(found.exc_value)


def print_traceback(error: BaseException | None) -> None:
    """Print an exception with its traceback on standard error."""
    parts = traceback.format_exception(error) if error else []
    print_lines("".join(parts).rstrip("\n").split("\n"), to=sys.stderr)
