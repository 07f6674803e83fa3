"""The check before a long job: inputs, storage, cluster, versions; every finding is one line."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from echodfkd.config import RunConfig
from echodfkd.errors import EchoDFKDError
from echodfkd.runtime.cluster import connected, with_absolute_paths
from echodfkd.runtime.distillation_run import check_inputs
from echodfkd.runtime.parts import num_cases, training_source
from echodfkd.runtime.resources import live_nodes, place, roles
from echodfkd.storage import RunStorage

NODE_TIMEOUT_S = 10.0
"""How long one node may take to answer."""


def run_preflight(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Check everything that can be checked without training.

    Returns:
        ``{"ok": bool, "missing": [sentence ...], "seconds": float}``.
    """
    started = time.time()
    config = with_absolute_paths(config)
    missing: list[str] = []
    checks: list[tuple[str, Callable[[], str]]] = [
        ("inputs", lambda: f"teacher {check_inputs(config)}; {_describe_sources(config)}"),
        ("storage", lambda: _check_storage(config)),
    ]
    for name, check in checks:
        _report(name, check, missing, print_line)
    try:
        with connected(config.ray):
            _check_roles(config, missing, print_line)
            _report("versions", _check_versions, missing, print_line)
    except EchoDFKDError as error:
        missing.append(str(error))
        print_line(f"cluster   missing: {error}")
    seconds = time.time() - started
    print_line(f"{'ready' if not missing else 'not ready'} after {seconds:.1f} s")
    return {"ok": not missing, "missing": missing, "seconds": round(seconds, 1)}


def _report(name: str, check: Callable[[], str], missing: list[str], print_line: Callable[[str], None]) -> None:
    try:
        print_line(f"{name:<9} ok: {check()}")
    except EchoDFKDError as error:
        missing.append(str(error))
        print_line(f"{name:<9} missing: {error}")


def _describe_sources(config: RunConfig) -> str:
    first = training_source(config).clip(0)
    cases = f"{num_cases(config)} held-out cases" if config.evaluation.enabled else "no evaluation"
    return f"source {config.source.kind} gives clips of {first.video.shape}; {cases}"


def _check_storage(config: RunConfig) -> str:
    storage = RunStorage(config.root)
    existed = storage.exists("")
    storage.check_writable()
    if not existed:
        storage.fs.rm(storage.path(""), recursive=True)
    return f"{config.root} can be written"


def _check_roles(config: RunConfig, missing: list[str], print_line: Callable[[str], None]) -> None:
    for role in roles(config):
        labels = "".join(f", label {key}={value}" for key, value in role.labels.items())
        print_line(f"role      {role.name}: {role.count} x {role.cpus:g} CPU, {role.gpus:g} GPU{labels}")
    nodes = live_nodes()
    for node in nodes:
        print_line(f"node      {node.name}: {node.cpus:g} CPU, {node.gpus:g} GPU")
    found = place(roles(config), nodes)
    missing.extend(found)
    for sentence in found:
        print_line(f"cluster   missing: {sentence}")
    if not found:
        print_line("cluster   ok: every role fits at the same time")


def _check_versions() -> str:
    here = versions()
    wrong = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(versions).options(num_cpus=0, scheduling_strategy=where).remote()
        name = node["NodeManagerHostname"]
        try:
            there = ray.get(task, timeout=NODE_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            wrong.append(f"node {name} did not answer within {NODE_TIMEOUT_S:g} s")
            continue
        wrong += [
            f"node {name} has {key} {there[key]}, the driver {here[key]}" for key in here if there[key] != here[key]
        ]
    if wrong:
        raise EchoDFKDError("; ".join(wrong))
    return ", ".join(f"{key} {value}" for key, value in here.items())


def versions() -> dict[str, str]:
    """What must be the same on every node."""
    return {"python": platform.python_version(), "ray": ray.__version__, "torch": torch.__version__}
