"""Resources of each role, and a check that the cluster can hold all roles at the same time.

Ray Train reserves first, Ray Data takes the rest, and other actors are invisible to both. A run whose students leave
no CPU to the stream does not fail: it hangs until a time-out. So this is checked before anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import ray

from echodfkd.config.run import RunConfig
from echodfkd.runtime.cluster.connection import node_labels


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


@dataclass
class Node:
    """Free resources of one live node."""

    name: str
    cpus: float
    gpus: float
    labels: dict[str, str] = field(default_factory=dict)


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


def live_nodes() -> list[Node]:
    """The nodes of the connected cluster with their total resources."""
    return [
        Node(
            node["NodeManagerHostname"] or node["NodeID"][:8],
            float(node["Resources"].get("CPU", 0.0)),
            float(node["Resources"].get("GPU", 0.0)),
            dict(node.get("Labels") or {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def place(wanted: list[Role], nodes: list[Node]) -> list[str]:
    """Place every process of every role on a node, first fit. Returns a sentence for each role that does not fit."""
    missing = []
    for role in wanted:
        placed = sum(_take(role, nodes) for _ in range(role.count))
        if placed < role.count:
            where = "".join(f" on a node labelled {key}={value}" for key, value in role.labels.items())
            left = "; ".join(f"{node.name}: {node.cpus:g} CPU, {node.gpus:g} GPU left" for node in nodes)
            missing.append(
                f"{role.option}: {placed} of {role.count} {role.name} processes fit"
                f" ({role.cpus:g} CPU, {role.gpus:g} GPU each{where}; {left or 'no node is alive'})"
            )
    return missing


def _take(role: Role, nodes: list[Node]) -> bool:
    for node in nodes:
        fits = node.cpus >= role.cpus and node.gpus >= role.gpus
        if fits and all(node.labels.get(key) == value for key, value in role.labels.items()):
            node.cpus -= role.cpus
            node.gpus -= role.gpus
            return True
    return False
