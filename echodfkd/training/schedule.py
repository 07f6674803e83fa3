"""The learning rate, a pure function of the step: a checkpoint need not hold it."""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, schedule: str, base: float, warmup_steps: int, total_steps: int, final_fraction: float
) -> float:
    """Linear warm-up to ``base``, then down to ``base * final_fraction``.

    Args:
        step: 0 for the first update, ``total_steps - 1`` for the last.
        schedule: cosine (half a cosine: Loshchilov and Hutter 2017), linear (a straight line), or constant (stays at
            ``base``).
        base: the largest learning rate, reached at step ``warmup_steps - 1``.
        warmup_steps: steps of the warm-up; the first uses ``base / warmup_steps``. 0: no warm-up.
        total_steps: length of the run.
        final_fraction: share of ``base`` at the last step.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    if schedule == "constant":
        return base
    span = total_steps - 1 - warmup_steps
    progress = min(1.0, (step - warmup_steps) / span) if span > 0 else 1.0
    height = 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return base * (final_fraction + (1.0 - final_fraction) * height)
