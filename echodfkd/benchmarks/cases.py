"""Measurements whose numbers stand in the docs: each case prints a table and gives one JSON object."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any, Protocol

import torch

from echodfkd.benchmarks.accounting import accounting
from echodfkd.benchmarks.echoclip import echoclip
from echodfkd.benchmarks.evaluation_overhead import evaluation_overhead
from echodfkd.benchmarks.family_table import family_table
from echodfkd.benchmarks.phantom import phantom, phantom_truth
from echodfkd.benchmarks.student_step import student_step
from echodfkd.benchmarks.timing import Report


class Case(Protocol):
    """One measurement; ``quick`` asks for a shorter one where there is one, which does not decide anything."""

    __doc__: str | None

    def __call__(self, report: Report, *, quick: bool) -> dict[str, Any]:
        """Print a table and return at least ``value``, ``target`` and ``holds``."""
        ...


CASES: dict[str, Case] = {
    "phantom": phantom,
    "phantom_truth": phantom_truth,
    "student_step": student_step,
    "family_table": family_table,
    "accounting": accounting,
    "evaluation_overhead": evaluation_overhead,
    "echoclip": echoclip,
}
"""Cases by name."""


def run_case(name: str, report: Report, *, quick: bool = False) -> dict[str, Any]:
    """Run one of `CASES`.

    Returns:
        At least ``case``, ``value``, ``target``, ``holds``, ``machine`` and ``versions``.
    """
    result = CASES[name](report, quick=quick)
    return {"case": name, "quick": quick, **result, "machine": _machine(), "versions": _versions()}


def describe_cases() -> list[str]:
    """A line per case: its name and its first sentence."""
    return [f"{name:<20} {(case.__doc__ or '').strip().splitlines()[0]}" for name, case in CASES.items()]


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
