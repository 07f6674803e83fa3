"""The benchmarks behind the numbers in the docs. Each prints a table and returns one JSON object."""

from __future__ import annotations

import datetime
import importlib
import platform
from importlib import metadata
from typing import Any, Protocol

import torch

from tests.benchmarks.timing import Report


class Case(Protocol):
    """One benchmark."""

    __doc__: str | None

    def __call__(self, report: Report, *, quick: bool) -> dict[str, Any]:
        """Measure and report a table.

        Args:
            report: takes each line of the table.
            quick: a shorter measurement, too short to decide anything.

        Returns:
            At least ``value``, ``target`` and ``holds``; ``agrees`` too, if the case also compares results with a
            reference.
        """
        ...


CASES = {
    "phantom": "phantom",
    "phantom_gpu": "phantom",
    "phantom_truth": "phantom",
    "student_step": "student_step",
    "teacher_frames": "teacher_frames",
    "family_of_16": "family_of_16",
    "stream_vs_two_stage": "stream_vs_two_stage",
    "data_wait": "data_wait",
    "accounting": "accounting",
    "evaluation_overhead": "evaluation_overhead",
    "confidence": "confidence",
    "generator_actors": "generator_actors",
    "published_generators": "published_generators",
    "exported_sizes": "exported_sizes",
    "precision_auto": "precision",
    "mask_stores": "mask_stores",
    "busy_cores": "busy_cores",
    "first_picture": "first_picture",
    "score_parts": "score_parts",
    "long_start": "long_start",
    "far_workers": "far_workers",
}
"""Name of a case, which is also its function's -> module of this package. Only that module is imported, so that
`student_step`, `teacher_frames`, `family_of_16` and `phantom_gpu` need no package but torch, numpy and scipy."""


def load_case(name: str) -> Case:
    """Import one of `CASES`."""
    case: Case = getattr(importlib.import_module(f"tests.benchmarks.{CASES[name]}"), name)
    return case


def run_case(name: str, report: Report, *, quick: bool = False) -> dict[str, Any]:
    """Run one of `CASES`.

    Returns:
        At least ``case``, ``value``, ``target``, ``holds``, ``date``, ``machine`` and ``versions``.
    """
    result = load_case(name)(report, quick=quick)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"case": name, "quick": quick, **result, "date": date, "machine": _machine(), "versions": _versions()}


def describe_cases() -> list[str]:
    """One line per case: its name and the first line of its docstring."""
    return [f"{name:<20} {(load_case(name).__doc__ or '').strip().splitlines()[0]}" for name in CASES]


def _machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"platform": platform.platform(), "processor": _processor(), "cpus": torch.get_num_threads(), "gpu": gpu}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _versions() -> dict[str, str]:
    """Versions of Python and of the packages; ``not installed`` for a checkout that is not."""
    versions = {"python": platform.python_version()}
    for name in ("echodfkd", "torch", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
