"""Which precision is the faster one here: measured, because some processors have units for bfloat16 and others none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

AUTO = "auto"
PRECISIONS = ("fp32", "bf16")
"""The usual one first."""
CHOICES = (*PRECISIONS, AUTO)
TEACHER_PRECISIONS = (*PRECISIONS, "fp16")
"""fp16 is for networks that are not trained: gradients would need a scaled loss."""
TEACHER_CHOICES = (*TEACHER_PRECISIONS, AUTO)
MARGIN = 0.03
"""fp32 is taken if it takes at most so much longer: the other one gives other numbers, and must be worth it."""
MOST_S, LONGEST_S = 4.0, 20.0
LEAST_ROUNDS, MOST_ROUNDS = 2, 50


def seconds_in_turn(
    works: Mapping[str, Callable[[], object]], *, now: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Least seconds of each piece of work, which must end on the host. In turn, so that a disturbance hits all alike.

    The first round, in which kernels are chosen and memory is taken, counts only if there is no time for another.
    """
    least, started = dict.fromkeys(works, math.inf), now()
    for number in range(MOST_ROUNDS):
        spent = now() - started
        if number and (spent > LONGEST_S or (number > LEAST_ROUNDS and spent > MOST_S)):
            break
        for name, work in works.items():
            before = now()
            work()
            took = now() - before
            least[name] = took if number < 2 else min(least[name], took)
    return least


def faster(seconds: Mapping[str, float]) -> str:
    """The precision with the fewest seconds, but the usual one within `MARGIN` of it."""
    usual = PRECISIONS[0]
    return usual if seconds[usual] <= (1 + MARGIN) * min(seconds.values()) else min(seconds, key=seconds.__getitem__)


def in_words(seconds: Mapping[str, float]) -> str:
    """E.g. "fp32 (bf16 takes 1.92 of its time)"."""
    chosen = faster(seconds)
    others = [f"{name} takes {seconds[name] / seconds[chosen]:.2f} of its time" for name in seconds if name != chosen]
    return f"{chosen} ({', '.join(others)})"
