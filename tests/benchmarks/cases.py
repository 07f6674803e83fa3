"""Measurements whose numbers stand in the docs: each case prints a table and gives one JSON object."""

from __future__ import annotations

import datetime
import importlib
import platform
from importlib import metadata
from typing import Any, Protocol

import torch

from tests.benchmarks.timing import Report


class Case(Protocol):
    """One measurement; ``quick`` asks for a shorter one where there is one, which does not decide anything."""

    __doc__: str | None

    def __call__(self, report: Report, *, quick: bool) -> dict[str, Any]:
        """Print a table and return at least ``value``, ``target`` and ``holds``."""
        ...


CASES = {
    "phantom": "phantom",
    "phantom_truth": "phantom",
    "student_step": "student_step",
    "family_table": "family_table",
    "accounting": "accounting",
    "evaluation_overhead": "evaluation_overhead",
    "echoclip": "echoclip",
    "teacher_frames": "teacher_frames",
    "family_of_16": "family_of_16",
    "kept_memory": "kept_memory",
    "decode": "decode",
    "imports": "imports",
    "clip_bytes": "clip_bytes",
    "engines": "engines",
    "stream_vs_two_stage": "stream_vs_two_stage",
    "data_wait": "data_wait",
    "stream_wall": "stream_wall",
    "alternatives": "alternatives",
    "first_update": "first_update",
}
"""Cases by name, and the module of this package that has a function of that name. One module alone is imported to run
a case, so that those of pure networks run where only torch is installed."""


def load_case(name: str) -> Case:
    """The measurement of this name."""
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
    """A line per case: its name and its first sentence."""
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
    """Versions of what was measured; a checkout that is not installed says so."""
    versions = {"python": platform.python_version()}
    for name in ("echodfkd", "torch", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
