"""The first word after Ctrl-C or SIGTERM: it comes at once, the end of the work takes seconds more."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from echodfkd.core.terminal import print_line


@contextlib.contextmanager
def told_at_once() -> Iterator[None]:
    """During the block, say that a signal to stop has arrived; its handler does the rest.

    Python calls a handler only between two steps of the main thread, which may be inside a library meanwhile, and Ray
    Train puts its own in place. The signal's number is written to the wake-up file at once in any case.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    teller = threading.Thread(target=_tell, args=(ours,), name="signals", daemon=True)
    teller.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        pythons.close()
        teller.join(timeout=1)  # the line stands before the job's own last sentence


def _tell(signals: socket.socket) -> None:
    """Print a line at the first signal to stop; return when the other end is closed."""
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "SIGTERM"}
    with signals:
        while numbers := signals.recv(64):
            for number in numbers:
                if said := words.get(signal.Signals(number)):
                    print_line(f"{said}: stopping, which can take some seconds", to=sys.stderr)
                    words.clear()
