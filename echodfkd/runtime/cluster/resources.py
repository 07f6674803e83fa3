"""Resources of each role, and a check that the cluster can hold all roles at the same time.

Ray Train reserves first, Ray Data takes the rest, and other actors are invisible to both. A run whose students leave
no CPU to the stream does not fail: it hangs until a time-out. So this is checked before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray._private import state as ray_state

from echodfkd.config.run import RunConfig
from echodfkd.runtime.cluster.connection import node_labels

MOST_NODES = 4
"""Most nodes that one sentence lists."""


@dataclass(frozen=True)
class Role:
    """``count`` processes of one kind, each with these resources, on nodes with these labels."""

    name: str
    count: int
    cpus: float
    gpus: float
    labels: dict[str, str]
    option: str
    """The config section that sets it."""

    def may_run_on(self, node: Node) -> bool:
        """Whether the node has the role's labels."""
        return all(node.labels.get(key) == value for key, value in self.labels.items())


@dataclass
class Node:
    """Free resources of one live node."""

    name: str
    cpus: float
    gpus: float
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RoleNow:
    """One role of a run at this moment.

    Attributes:
        role: its least number of processes, and their needs.
        most: processes that it may grow to.
        living: processes that live.
        coming: those that Ray was asked for beside them: they load, start again, or wait for a machine.
        placed: processes that have a node: those that live, and those that load on one.
        nodes: nodes that the living ones are on.
        busy_share: share of the last minute that a living one was at work, a mean over them; None if unknown.
    """

    role: Role
    most: int
    living: int
    coming: int
    placed: int
    nodes: int
    busy_share: float | None = None

    @property
    def wanted(self) -> int:
        """Processes that Ray was asked for, at least those that the run needs."""
        return max(self.role.count, self.living + self.coming)

    @property
    def is_news(self) -> bool:
        """Whether there is more to say than that all processes are there, as in every quiet run."""
        return self.living != self.role.count or self.most > self.role.count or self.busy_share is not None

    @property
    def text(self) -> str:
        """For the progress line, e.g. "teacher 1 of 1..4 (3 wanted, 55 % at work)"."""
        least, most = self.role.count, self.most
        told = [f"{self.wanted} wanted"] if self.wanted > max(self.living, least) else []
        told += [] if self.busy_share is None or not self.living else [f"{100 * self.busy_share:.0f} % at work"]
        bounds = f"{least}..{most}" if most > least else f"{least}"
        return f"{self.role.name} {self.living} of {bounds}" + (f" ({', '.join(told)})" if told else "")


def roles(config: RunConfig) -> list[Role]:
    """Every role of the run, hardest to place first."""
    train, evaluation = config.train, config.evaluation
    wanted = [
        Role("student", train.workers, train.num_cpus, train.num_gpus, node_labels(train.node_label) or {}, "train"),
        *(
            Role(
                option.replace("teacher.members.", "teacher."),
                pool.min_actors,
                pool.num_cpus,
                pool.num_gpus,
                node_labels(pool.node_label) or {},
                option,
            )
            for option, pool in config.teacher.actor_pools.items()
        ),
        *(
            Role(stage, pool.min_actors, pool.num_cpus, pool.num_gpus, node_labels(pool.node_label) or {}, option)
            for (stage, pool), option in zip(config.generator_pools.items(), _generator_options(config), strict=True)
        ),
        Role("source", 1, config.data.source_num_cpus, 0.0, {}, "data"),
    ]
    if evaluation.enabled:
        labels = node_labels(evaluation.node_label) or {}
        wanted.append(
            Role("evaluator", evaluation.actors, evaluation.num_cpus, evaluation.num_gpus, labels, "evaluation")
        )
    return sorted(wanted, key=lambda role: (-len(role.labels), -role.gpus, -role.cpus))


def _generator_options(config: RunConfig) -> list[str]:
    return [f"source.parts.{name}.generator" if name else "source.generator" for name in config.source.generated]


def missing_roles(found: Mapping[str, RoleNow]) -> list[Role]:
    """The roles that a run lacks: processes without a node."""
    lacks = [(now.role, now.role.count - now.placed) for now in found.values()]
    return [replace(role, count=count) for role, count in lacks if count > 0]


def live_nodes() -> list[Node]:
    """The nodes of the connected cluster with their total resources."""
    return [_node(node, node["Resources"]) for node in ray.nodes() if node["Alive"]]


def free_nodes() -> list[Node]:
    """The same nodes with the resources that no process holds now."""
    free = ray_state.available_resources_per_node()
    return [_node(node, free.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"]]


def held_bundles() -> list[dict[str, float]]:
    """Resources that processes hold, a bundle for each node."""
    free = ray_state.available_resources_per_node()
    held = [
        {
            name: node["Resources"].get(name, 0.0) - free.get(node["NodeID"], {}).get(name, 0.0)
            for name in ("CPU", "GPU")
        }
        for node in ray.nodes()
        if node["Alive"]
    ]
    return [found for bundle in held if (found := {name: count for name, count in bundle.items() if count > 0})]


def _node(found: Mapping[str, Any], resources: Mapping[str, float]) -> Node:
    return Node(
        found["NodeManagerHostname"] or found["NodeID"][:8],
        float(resources.get("CPU", 0.0)),
        float(resources.get("GPU", 0.0)),
        dict(found.get("Labels") or {}),
    )


def place(wanted: list[Role], nodes: list[Node]) -> list[str]:
    """Place every process of every role on a node, first fit. Returns a sentence for each role that does not fit."""
    missing = []
    for role in wanted:
        placed = sum(_take(role, nodes) for _ in range(role.count))
        if placed < role.count:
            where = "".join(f" on a node labelled {key}={value}" for key, value in role.labels.items())
            missing.append(
                f"{role.option}: {placed} of {role.count} {role.name} processes fit"
                f" ({role.cpus:g} CPU, {role.gpus:g} GPU each{where}; {_left(role, nodes)})"
            )
    return missing


def _left(role: Role, nodes: list[Node]) -> str:
    """Resources left on the nodes that a role may run on, the emptiest first."""
    suitable = sorted(filter(role.may_run_on, nodes), key=lambda node: (-node.gpus, -node.cpus))
    if not suitable:
        return "no node has that label" if nodes else "no node is alive"
    shown = [f"{node.name}: {node.cpus:g} CPU, {node.gpus:g} GPU left" for node in suitable[:MOST_NODES]]
    more = len(suitable) - MOST_NODES
    return "; ".join([*shown, *([f"{more} nodes more"] if more > 0 else [])])


def _take(role: Role, nodes: list[Node]) -> bool:
    for node in filter(role.may_run_on, nodes):
        if node.cpus >= role.cpus and node.gpus >= role.gpus:
            node.cpus -= role.cpus
            node.gpus -= role.gpus
            return True
    return False
