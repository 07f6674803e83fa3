"""Checks before a long job: inputs, storage, cluster, versions. Every finding is one line."""

from __future__ import annotations

import math
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import psutil
import pyarrow
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import echodfkd
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import GENERATORS
from echodfkd.core.counter import Counter
from echodfkd.core.errors import EchoDFKDError
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.runtime.cluster.connection import connected, with_absolute_paths
from echodfkd.runtime.cluster.resources import free_nodes, live_nodes, place, roles
from echodfkd.runtime.distillation_run import check_inputs
from echodfkd.runtime.stream.builders import (
    drafting_source,
    load_teacher,
    num_cases,
    router,
    source_notes,
    training_source,
)
from echodfkd.storage.files import RunStorage

NODE_TIMEOUT_S = 30.0
"""Time for a node to answer: its first process imports torch, which takes many seconds on a busy machine."""

MIN_DISK_MB = 2048
"""Ray stops starting tasks on a disk that is 95 % full, and spills objects to it."""

MAX_CLOCK_S = 30.0
"""No decision depends on other machines' clocks; the report's timeline does, and a store's signatures (15 min)."""


def run_preflight(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Check everything that can be checked without training.

    Returns:
        ``{"ok": bool, "missing": [sentence ...], "seconds": float}``.
    """
    started = time.time()
    config = with_absolute_paths(config)
    missing: list[str] = []
    checks: list[tuple[str, Callable[[], str]]] = [
        ("data", lambda: _say_notes(config, print_line)),
        ("inputs", lambda: f"teacher {check_inputs(config)}; {_describe_sources(config)}"),
        ("storage", lambda: _check_storage(config)),
        ("first", lambda: _time_first_batch(config)),
    ]
    with Counter("checks", len(checks) + 1, print_line) as counter:
        for number, (name, check) in enumerate(checks):
            counter.show(number, name)
            _report(name, check, missing, print_line)
        counter.show(len(checks), "cluster")
        try:
            with connected(config.ray):
                _check_roles(config, missing, print_line)
                _report("versions", lambda: _check_nodes(config, print_line), missing, print_line)
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


def _say_notes(config: RunConfig, print_line: Callable[[str], None]) -> str:
    """Print what is to be said of the data sets; returns how much that is."""
    notes = source_notes(config)
    for note in notes:
        print_line(f"note      {note}")
    return f"{len(notes)} notes on the data"


def _describe_sources(config: RunConfig) -> str:
    first = drafting_source(config).clip(0)
    cases = f"{num_cases(config)} held-out cases" if config.evaluation.enabled else "no evaluation"
    return f"source {config.source.kind} gives clips of {first.video.shape}; {cases}"


def _time_first_batch(config: RunConfig) -> str:
    """Seconds until the students' first micro-batch once all actors are up, timed here, on the CPU."""
    source, teacher = training_source(config), load_teacher(config, device="cpu")
    if config.source.kind in GENERATORS:
        source.clip(1)  # loads the generator, which its actors do once
    start = time.perf_counter()
    clip = source.clip(0)
    made = time.perf_counter()
    shown = clip.video if clip.seen_video is None else clip.seen_video
    teacher.teach(shown[None], [ClipKey(clip.clip_id, clip.index, clip.window_start, route=router(config)(clip))])
    taught = time.perf_counter()
    there = " (on a GPU it is another number)" if config.teacher.num_gpus else ""
    needed = math.ceil((made - start) / (taught - made))
    if config.source.kind in GENERATORS:
        there += f"; {needed} generator actors of such speed keep one teacher actor busy"
    return (
        f"{config.micro_batch * (taught - start):.1f} s of work for a micro-batch of {config.micro_batch}: a clip takes"
        f" {made - start:.2f} s to make and {taught - made:.2f} s to teach on this CPU{there}"
    )


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
        for sentence in place(roles(config), free_nodes()):
            print_line(f"room      none now, a run waits up to {config.ray.wait_for_room_s:g} s: {sentence}")


def _check_nodes(config: RunConfig, print_line: Callable[[str], None]) -> str:
    """Ask every node for its facts. Raises `EchoDFKDError` with all faults."""
    here, wrong, asked = versions(), [], []
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            facts = ray.remote(node_facts).options(num_cpus=0, scheduling_strategy=there).remote()
            asked.append((node, time.time(), facts))
    for node, sent, future in asked:
        name = node["NodeManagerHostname"]
        try:
            facts = ray.get(future, timeout=NODE_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            wrong.append(f"node {name} did not answer within {NODE_TIMEOUT_S:g} s")
            continue
        print_line(f"node      {name}: {describe_node(facts)}")
        gpus = float(node["Resources"].get("GPU", 0.0))
        wrong += [f"node {name} {text}" for text in node_faults(facts, here, gpus=gpus, asked=sent, now=time.time())]
        wrong += [f"node {name} {text}" for text in store_faults(config, node["Resources"])]
    if wrong:
        raise EchoDFKDError("; ".join(wrong))
    return ", ".join(f"{key} {value}" for key, value in here.items())


def versions() -> dict[str, str]:
    """Versions that must be the same on every node: blocks and plans travel as Arrow's, numpy's and our own objects."""
    packages = {module.__name__: module.__version__ for module in (echodfkd, ray, torch, numpy, pyarrow)}
    return {"python": platform.python_version(), **packages}


def node_facts() -> dict[str, Any]:
    """Facts of this node: versions, GPUs that torch sees, free MiB of shared memory, disk and memory, its time."""
    shared = Path("/dev/shm")  # noqa: S108 looked at, not written
    return {
        **versions(),
        "cuda": torch.cuda.device_count(),
        "shm_mb": shutil.disk_usage(shared).free >> 20 if shared.is_dir() else None,
        "disk_mb": shutil.disk_usage(tempfile.gettempdir()).free >> 20,
        "memory_mb": psutil.virtual_memory().available >> 20,
        "time": time.time(),
    }


def describe_node(facts: dict[str, Any]) -> str:
    """For a person."""
    shared = "none" if facts["shm_mb"] is None else f"{facts['shm_mb']} MiB"
    left = f"memory {facts['memory_mb']} MiB, shared memory {shared}, disk {facts['disk_mb']} MiB"
    return f"free: {left}; torch sees {facts['cuda']} GPU"


def node_faults(facts: dict[str, Any], here: dict[str, str], *, gpus: float, asked: float, now: float) -> list[str]:
    """Faults of a node that would stop a run or falsify its report.

    Args:
        facts: from `node_facts`.
        here: the driver's `versions`.
        gpus: number that Ray counts on it.
        asked: when the driver asked, seconds since 1970.
        now: when the answer came.
    """
    found = [f"has {key} {facts[key]}, the driver {here[key]}" for key in here if facts[key] != here[key]]
    if facts["cuda"] < gpus:
        found.append(f"has {gpus:g} GPU by Ray's count, but torch sees {facts['cuda']} there")
    if facts["disk_mb"] < MIN_DISK_MB:
        found.append(f"has {facts['disk_mb']} MiB of disk left for Ray's temporary folder, {MIN_DISK_MB} are needed")
    ahead = max(facts["time"] - now, asked - facts["time"])
    if ahead > MAX_CLOCK_S:
        found.append(f"has a clock that is {ahead:.0f} s off the driver's; the timeline of the report would be wrong")
    return found


def store_faults(config: RunConfig, resources: dict[str, float]) -> list[str]:
    """Faults of a node's object store: at least four blocks must fit, as the stream may use half of it."""
    store_mb = int(resources.get("object_store_memory", 0)) >> 20
    block_mb = config.micro_batch * config.clip_bytes / 2**20
    if store_mb and store_mb < 4 * block_mb:
        return [
            f"has an object store of {store_mb} MiB; a block of {config.micro_batch} clips takes {block_mb:.0f} MiB and"
            " at least four must fit (--object-store-memory, or smaller micro-batches: train.accumulation)"
        ]
    return []
