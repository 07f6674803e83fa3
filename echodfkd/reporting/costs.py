"""What a run's students cost: weights, and multiply-accumulates per frame of the size that others publish."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from echodfkd.config.file import config_from_dict
from echodfkd.core.errors import EchoDFKDError
from echodfkd.reporting.published import SIZE
from echodfkd.reporting.rows import RunRows

_SHAPE = (
    *("blocks", "layers", "filters", "norm", "classes", "tasks", "recurrence", "skips", "activation"),
    *("bidirectional", "input"),
)
"""Options that shape a student; the others may name files, which a report has no business with."""
_MOST = {"blocks": 8, "layers": 8, "filters": 512, "classes": 32, "tasks": 8}
"""A config may come from anybody, and a network is built to count it."""


def student_costs(rows: RunRows) -> dict[str, dict[str, int | None]]:
    """Student -> ``parameters`` and ``macs`` per frame of `SIZE` x `SIZE` pixels, None where they are not known."""
    known, options = rows.run.get("students") or {}, rows.config.get("students") or {}
    found = {}
    for name in rows.students:
        counted = _counted(options.get(name))
        of_run = known.get(name) or {}
        found[name] = {"parameters": of_run.get("parameters") or counted[0], "macs": counted[1]}
    return found


def _counted(options: Any) -> tuple[int | None, int | None]:
    if not isinstance(options, Mapping):
        return None, None
    shape = {key: options[key] for key in _SHAPE if key in options}
    for key, most in _MOST.items():
        value = shape.get(key, 0)
        if not isinstance(value, int | list) or (value if isinstance(value, int) else len(value)) > most:
            return None, None
    return _count(json.dumps(shape, sort_keys=True, default=str))


@functools.lru_cache(maxsize=256)
def _count(shape: str) -> tuple[int | None, int | None]:
    from echodfkd.models.students.cost import student_cost

    try:
        student = config_from_dict({"students": {"counted": json.loads(shape)}}).students["counted"]
        cost = student_cost(student.network, SIZE)
    except EchoDFKDError:  # not a student of this version
        return None, None
    return int(cost["parameters"]), int(cost["macs_per_frame"])
