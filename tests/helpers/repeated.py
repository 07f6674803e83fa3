"""Look at something again and again while other code runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(look: Callable[[], None], *, every_s: float) -> Iterator[None]:
    """Call `look` in a thread, for the first time after ``every_s``, until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every_s):
            look()

    thread = threading.Thread(target=run, name="repeated", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
