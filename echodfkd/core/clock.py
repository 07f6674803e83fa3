"""A time of day that never jumps, for every duration, deadline and span of a run."""

from __future__ import annotations

import time

_START = time.time() - time.monotonic()


def now() -> float:
    """Seconds since 1970: the machine's clock at the start of this process, advanced by the monotonic clock.

    A clock set forward or back in the middle of a run (NTP, an operator, a resumed virtual machine) would make
    spans negative, silence progress for hours, or end a run for standing still. Processes that begin after such a
    jump are off by it against older ones; differences within one process are right.
    """
    return _START + time.monotonic()
