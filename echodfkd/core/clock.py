"""The time of day that never jumps: what every duration, deadline and span of a run is measured with."""

from __future__ import annotations

import time

_START = time.time() - time.monotonic()


def now() -> float:
    """Seconds since 1970, as the machine's clock stood when this process began, moved on by a clock nobody sets.

    A clock set forward or back in the middle of a run (NTP, an operator, a resumed virtual machine) would make
    spans negative, silence progress for hours, or end a run for standing still. Processes that begin after such a
    jump are off by it against older ones; what is measured within a process is right.
    """
    return _START + time.monotonic()
