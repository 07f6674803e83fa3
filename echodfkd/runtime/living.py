"""The processes of a run that live now, by role: asked of Ray, not counted from their work.

Work is told late or never: a dead actor tells nothing, one that waits for a machine has no name yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray._private import state as ray_state

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.errors import InputError
from echodfkd.core.redaction import dump_json
from echodfkd.runtime.cluster.resources import RoleNow, roles
from echodfkd.runtime.stream.generator_pool import generating_stages
from echodfkd.runtime.stream.teacher_pool import teaching_stages
from echodfkd.storage.files import RunStorage
from echodfkd.training.progress import WINDOW_S

KEPT = "logs/pools.json"
"""Sizes of the pools as of the newest checkpoint: a resumed run starts with them, not with the least."""

COMING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING")
"""States of an actor that Ray was asked for and that does not live (yet, or at the moment)."""


class Living:
    """Looks at a run's processes. Each look is remembered for a minute: shares are over the mean number that lived."""

    def __init__(self, config: RunConfig) -> None:
        stages = [*generating_stages(config), *teaching_stages(config, "")]
        self._classes = {stage.name: f"MapWorker(MapBatches({stage.named_actor.__name__}))" for stage in stages}
        self._classes |= {"student": "RayTrainWorker", "evaluator": "Evaluator"}
        self._most = {stage.name: stage.pool.max_actors for stage in stages}
        self._roles = [role for role in roles(config) if role.name in self._classes]
        self._source_tasks = config.data.source_tasks
        self._looks: deque[tuple[float, dict[str, int]]] = deque()

    def look(self, values: Mapping[str, Any]) -> dict[str, RoleNow]:
        """Every role with processes of its own, by its name. ``values`` are those of the progress actor."""
        alive, coming = actors_of_job("ALIVE"), [actor for state in COMING for actor in actors_of_job(state)]
        found = {}
        for role in self._roles:
            nodes = [node for name, node in alive if name == self._classes[role.name]]
            asked = [node for name, node in coming if name == self._classes[role.name]]
            most, placed = self._most.get(role.name, role.count), len(nodes) + sum(map(bool, asked))
            found[role.name] = RoleNow(role, most, len(nodes), len(asked), placed, len(set(nodes)))
        return self._with_shares(found, values)

    def pools(self) -> dict[str, int]:
        """Living actors of each pool at the newest look."""
        return {name: count for name, count in self._looks[-1][1].items() if name in self._most and count}

    def shares(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Share of the last minute that the processes of a stage were at work, by stage; source tasks are no actors."""
        found = {}
        for stage in (key.removesuffix("_at_work") for key in values if key.endswith("_at_work")):
            lived = [count[stage] for _, count in self._looks if stage in count]
            mean = self._source_tasks if stage == "source" else sum(lived) / len(lived) if lived else 0
            if mean:
                found[stage] = min(1.0, float(values[f"{stage}_at_work"]) / mean)
        return found

    def _with_shares(self, found: dict[str, RoleNow], values: Mapping[str, Any]) -> dict[str, RoleNow]:
        now = clock.now()
        self._looks.append((now, {name: role.living for name, role in found.items()}))
        while self._looks[0][0] < now - WINDOW_S:
            self._looks.popleft()
        shares = self.shares(values)
        return {name: replace(role, busy_share=shares.get(name)) for name, role in found.items()}


def actors_of_job(state: str) -> list[tuple[str, str]]:
    """Class and node (empty: none yet) of every actor of this job in a state of Ray's."""
    job, nowhere = ray.JobID.from_hex(ray.get_runtime_context().get_job_id()), ray.NodeID.nil().hex()
    found = ray_state.actors(None, job, state).values()
    return [(actor["ActorClassName"], actor["Address"]["NodeID"].replace(nowhere, "")) for actor in found]


def keep_pools(storage: RunStorage, sizes: Mapping[str, int]) -> None:
    """Write the number of living actors of each pool."""
    storage.write(KEPT, dump_json(dict(sizes)))


def kept_pools(storage: RunStorage) -> dict[str, int]:
    """The numbers that `keep_pools` wrote; none if there are none that can be used: they only save time."""
    try:
        found = storage.read_json(KEPT) if storage.exists(KEPT) else {}
    except (InputError, OSError):
        return {}
    return {name: size for name, size in found.items() if isinstance(size, int) and size > 0}
