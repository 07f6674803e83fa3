"""A run's curves for TensorBoard, MLflow and Weights & Biases, made from the same rows as the report.

All get every optimiser update (loss, terms, learning rate, gradient norm) and every score's mean over cases at each
scored step. A logger remembers the points it has written, so that following a run adds only new ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from echodfkd.core.errors import InputError, one_line
from echodfkd.reporting.rows import RunRows, read_rows
from echodfkd.reporting.summary import scores_at
from echodfkd.storage.files import RunStorage

_TRAINING = ("loss", "learning_rate", "grad_norm")


@dataclass(frozen=True)
class Scalar:
    """One point of one curve. ``time`` is seconds since 1970, None if unknown.

    Example: ``Scalar("c31/dice_all", 100, 0.91, None)``.
    """

    name: str
    step: int
    value: float
    time: float | None


def scalars(rows: RunRows) -> Iterator[Scalar]:
    """Every finite point of every curve; a student's are ``<student>/<metric>``, the teacher's ``teacher/<metric>``."""
    for row in rows.training.to_pylist():
        found = {name: row[name] for name in _TRAINING}
        found |= {f"term_{name}": value for name, value in row["terms"] or ()}
        for name, value in found.items():
            if value is not None and np.isfinite(value):
                yield Scalar(f"{row['student']}/{name}", row["step"], float(value), row["time"])
    seed = int(rows.config.get("seed", 0))
    for student, step in rows.score_groups:
        if student or step == -1:
            for metric, interval in scores_at(rows, student, step, seed=seed).items():
                if np.isfinite(interval.mean):
                    yield Scalar(f"{student or 'teacher'}/{metric}", max(step, 0), interval.mean, None)


class CurveLogger(Protocol):
    """A destination of curves."""

    def write(self, rows: RunRows) -> int:
        """Add the points that are new; returns how many."""
        ...


def write_curves(storage: RunStorage, loggers: Sequence[CurveLogger]) -> None:
    """Give all loggers the new points of a run, whose rows are read once. Raises `InputError`, see `rows.read_rows`."""
    if loggers:
        rows = read_rows(storage)
        for logger in loggers:
            logger.write(rows)


class _Remembering:
    """Tells new points from those already written."""

    def __init__(self) -> None:
        self._written: set[tuple[str, int]] = set()

    def new(self, rows: RunRows) -> list[Scalar]:
        found = [point for point in scalars(rows) if (point.name, point.step) not in self._written]
        self._written.update((point.name, point.step) for point in found)
        return found


class TensorBoardLogger:
    """Event files in a folder that `tensorboard --logdir` reads.

    Raises:
        InputError: tensorboardX (extra `[tensorboard]`) is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: str) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError("--tensorboard: needs tensorboardX; pip install 'echodfkd[tensorboard]'") from error
        try:
            self._writer: Any = SummaryWriter(folder)
        except OSError as error:
            raise InputError(f"--tensorboard: {folder} cannot be written: {one_line(error)}") from error
        self._points = _Remembering()

    def write(self, rows: RunRows) -> int:
        """See `CurveLogger.write`."""
        found = self._points.new(rows)
        for point in found:
            self._writer.add_scalar(point.name, point.value, point.step, walltime=point.time)
        self._writer.flush()
        return len(found)


class MlflowLogger:
    """A run of an MLflow tracking server, in the experiment `echodfkd`, with the run's options as parameters.

    Args:
        uri: of the server, e.g. http://127.0.0.1:5000.
        name: the run's.

    Raises:
        InputError: mlflow (extra `[mlflow]`) is not installed, or the server cannot be used.
    """

    EXPERIMENT = "echodfkd"
    BATCH = 500
    """Points in one request: half of MLflow's limit."""

    def __init__(self, uri: str, name: str) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise InputError("--mlflow: needs mlflow; pip install 'echodfkd[mlflow]'") from error
        self._uri, self._points, self._has_params = uri, _Remembering(), False
        with _explained(f"--mlflow: {uri}"):
            self._client = MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(self.EXPERIMENT)
            experiment = known.experiment_id if known else self._client.create_experiment(self.EXPERIMENT)
            self._run = self._client.create_run(experiment, run_name=name).info.run_id

    def write(self, rows: RunRows) -> int:
        """See `CurveLogger.write`."""
        from mlflow.entities import Metric, Param

        found = self._points.new(rows)
        points = [Metric(p.name, p.value, int(1000 * (p.time or 0.0)), p.step) for p in found]
        options = [] if self._has_params else [Param(key, value) for key, value in _flat(rows.config).items()]
        with _explained(f"--mlflow: {self._uri}"):
            for first in range(0, len(options), 100):
                self._client.log_batch(self._run, params=options[first : first + 100])
            for first in range(0, len(points), self.BATCH):
                self._client.log_batch(self._run, metrics=points[first : first + self.BATCH])
            if rows.run:
                self._client.set_terminated(self._run, "FAILED" if rows.run.get("error") else "FINISHED")
        self._has_params = True
        return len(found)


class WandbLogger:
    """A run of Weights & Biases, with the run's options as its config. Its own settings (WANDB_MODE ...) hold.

    Args:
        project: its project.
        name: the run's.

    Raises:
        InputError: wandb (extra `[wandb]`) is not installed, or cannot be used.
    """

    def __init__(self, project: str, name: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError("--wandb: needs wandb; pip install 'echodfkd[wandb]'") from error
        self._project, self._points = project, _Remembering()
        with _explained(f"--wandb: {project}"):
            self._run: Any = wandb.init(project=project, name=name)
            self._run.define_metric("*", step_metric="update")

    def write(self, rows: RunRows) -> int:
        """See `CurveLogger.write`. Its own step counts calls, so that every point carries its update."""
        found = self._points.new(rows)
        updates: dict[int, dict[str, float]] = {}
        for point in found:
            updates.setdefault(point.step, {})[point.name] = point.value
        with _explained(f"--wandb: {self._project}"):
            self._run.config.update(_flat(rows.config), allow_val_change=True)
            for update in sorted(updates):
                self._run.log({**updates[update], "update": update})
            if rows.run:
                self._run.finish(exit_code=1 if rows.run.get("error") else 0)
        return len(found)


@contextlib.contextmanager
def _explained(start: str) -> Iterator[None]:
    """Turn any error of a tracking server's client into one sentence that begins with the argument and its value."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{start} cannot be used: {one_line(error)}") from error


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested options as ``a.b.c`` -> text, cut to MLflow's limits of a parameter."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"[:250]] = str(value)[:5000]
    return found


def build_loggers(
    storage: RunStorage, *, tensorboard: str = "", mlflow: str = "", wandb: str = ""
) -> list[CurveLogger]:
    """The loggers of a run that are named: by a folder, a server's URI, a project. Raises `InputError`."""
    name = storage.root.rsplit("/", 1)[-1]
    found: list[CurveLogger] = [TensorBoardLogger(tensorboard)] if tensorboard else []
    found += [MlflowLogger(mlflow, name)] if mlflow else []
    return [*found, WandbLogger(wandb, name)] if wandb else found
