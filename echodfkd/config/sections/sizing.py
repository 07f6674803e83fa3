"""Options of `sizing`: inputs of the --dry-run estimate."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import DAY_S, option

PRICED = ("source", "generator", "teacher", "students", "evaluator", "head")


@dataclass(frozen=True)
class SizingConfig:
    """Inputs of the --dry-run estimate of time and cost (`echodfkd.runtime.cluster.sizing`)."""

    pilot: str = option("", path="output")
    """Folder or fsspec URL of a finished short run of the same config; empty gives no estimate."""
    price_per_hour: dict[str, float] = option(factory=dict, least=0, ceiling=1e9)
    """Price per hour of one process of source, generator, teacher, students, evaluator, and of the head node; in any
    currency."""
    per_machine: dict[str, int] = option(factory=dict, least=1, ceiling=1024)
    """Processes that one machine holds, by the names of price_per_hour, e.g. {students: 4}: machines are rented whole,
    and price_per_hour is then the machine's."""
    losses_per_hour: dict[str, float] = option(factory=dict, least=0, ceiling=60)
    """How often a machine of one of these names is taken away, e.g. {teacher: 0.1} for spot machines that live ten
    hours."""
    machine_start_s: float = option(180.0, least=0, ceiling=DAY_S)
    """Seconds from the loss of a machine until another one has taken its place."""
    price_per_gb: float = option(0.0, least=0, ceiling=1e6)
    """Price of a GB that crosses from one zone to another; 0 if the machines are in one zone."""
