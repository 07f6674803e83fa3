"""The part of the config that `--dry-run` reckons time and cost from. `config` imports it; `check_sizing` refuses."""

from __future__ import annotations

from dataclasses import dataclass, field

PRICED = ("source", "teacher", "students", "evaluator", "head")


@dataclass(frozen=True)
class SizingConfig:
    """What `--dry-run` reckons time and cost from (`echodfkd.runtime.cluster.sizing`)."""

    pilot: str = ""
    """Folder or fsspec URL of a finished short run of the same config; empty gives no estimate."""
    price_per_hour: dict[str, float] = field(default_factory=dict)
    """What one process of source, teacher, students, evaluator costs in an hour, and the head node; in any currency."""
