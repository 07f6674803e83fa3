"""Early stopping of one student, by its training losses; the state is kept in the checkpoint.

Every update's loss is taken before the update. On an endless stream its clips were never trained on, so that the
mean over a window of updates is an unbiased estimate of the held-out loss (of the network in training mode, averaged
over the weights of the window), without a held-out set. In the second epoch of a recorded source clips come again, and
the mean is a training loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from echodfkd.config.sections.training import TrainConfig


@dataclass
class EarlyStopping:
    """Stops after ``patience`` windows in a row that are not better than the best one so far.

    The losses are summed over all workers, the same float64 on each, so that all decide alike. A resumed run goes on
    inside a window from the sum in the checkpoint. Window k covers the updates k * window + 1 .. (k + 1) * window.
    """

    best: float | None = None
    """Lowest mean loss of a whole window so far."""
    bad_windows: int = 0
    """Whole windows since then."""
    window_sum: float = 0.0
    """Sum of the losses of the current window."""
    window_steps: int = 0
    """Number of these losses."""
    stopped_at: int | None = None
    """Updates done when the student stopped; None while it trains."""

    def add(self, loss: float, step: int, train: TrainConfig) -> None:
        """Count the loss of update ``step`` (from 1), unless early stopping is off."""
        if not train.early_stop_window:
            return
        assert self.stopped_at is None, "a stopped student has no further losses"
        self.window_sum += loss
        self.window_steps += 1
        if self.window_steps < train.early_stop_window:
            return
        mean = self.window_sum / self.window_steps
        self.window_sum, self.window_steps = 0.0, 0
        if self.best is None or mean < self.best - train.early_stop_min_delta * abs(self.best):
            self.best, self.bad_windows = mean, 0
            return
        self.bad_windows += 1
        if self.bad_windows >= train.early_stop_patience:
            self.stopped_at = step

    @staticmethod
    def from_meta(meta: Mapping[str, object], student: str) -> EarlyStopping:
        """The state in a checkpoint's meta (JSON keeps every bit of a float64); a fresh one if there is none."""
        states = meta.get("early_stopping")
        state = states.get(student) if isinstance(states, dict) else None
        known = state if isinstance(state, dict) else {}
        return EarlyStopping(
            **{field.name: known[field.name] for field in fields(EarlyStopping) if field.name in known}
        )
