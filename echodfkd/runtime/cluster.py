"""How the driver reaches its cluster: the one of the environment, or a local one that ends with the run."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import ray

from echodfkd.command import QUIET_RAY, cluster_address
from echodfkd.config import PartConfig, RayConfig, RunConfig, SourceConfig
from echodfkd.config_source_file import map_parts
from echodfkd.errors import RunError


@contextlib.contextmanager
def connected(options: RayConfig) -> Iterator[None]:
    """Connect for the time of the block, and leave (or end, where it is ours) the cluster after it.

    `auto` takes RAY_ADDRESS where it is set, as it is in a submitted job, else starts a local cluster. It
    does not look for stray clusters on the machine: their address files outlive them.

    Raises:
        RunError: the cluster cannot be reached or started.
    """
    address = cluster_address(options.address)
    started_here = not ray.is_initialized()
    if started_here:
        local = {}
        runtime_env: dict[str, object] = {"env_vars": QUIET_RAY}
        if shlex.quote(sys.executable) != sys.executable:
            # Ray starts workers through a shell and leaves the interpreter's path unquoted: with a space in it
            # no actor would ever start, without a word
            runtime_env["py_executable"] = shlex.quote(sys.executable)
        if address == "local":
            local = {
                "num_cpus": options.num_cpus,
                "object_store_memory": options.object_store_mb << 20,
                "include_dashboard": False,
            }
        try:
            ray.init(
                address=address,
                runtime_env=runtime_env,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **local,
            )
        except Exception as error:
            raise RunError(f"ray.address: no cluster at {address}: {last_sentence(error)}") from error
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with local paths made absolute: actors run in folders of their own.

    A submitted job runs in an unpacked copy of its working directory that Ray deletes later, so that there
    a relative `storage` is taken from the home folder instead.
    """
    base = Path.home() if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else Path.cwd()
    evaluation = dataclasses.replace(config.evaluation, source=_absolute_source(config.evaluation.source))
    return dataclasses.replace(
        config,
        storage=_absolute(config.storage, base),
        synthesize=dataclasses.replace(config.synthesize, out=_absolute(config.synthesize.out, base)),
        source=_absolute_source(config.source),
        evaluation=evaluation,
        teacher=dataclasses.replace(config.teacher, weights=_absolute(config.teacher.weights, Path.cwd())),
    )


def node_labels(option: str) -> dict[str, str] | None:
    """Ray's label selector for a `node_label` option, None where it is empty."""
    if not option:
        return None
    key, value = option.split("=", 1)
    return {key: value}


def labels_of_stream(option: str, evaluation: str) -> dict[str, str] | None:
    """Label selector of a stage of the stream: its own label, else any node that is not the evaluators'."""
    if option or not evaluation:
        return node_labels(option)
    key, value = evaluation.split("=", 1)
    return {key: f"!{value}"}


def machine_line() -> str:
    """Cores, memory and system of this machine, for run.json."""
    import platform

    import psutil

    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def actor_name(stage: str) -> str:
    """Name of this process in the timeline: its stage, the first digits of its node's id, its process id."""
    return f"{stage}-{ray.get_runtime_context().get_node_id()[:6]}-{os.getpid()}"


def last_sentence(error: BaseException) -> str:
    """The innermost message of an error that crossed processes: Ray puts tracebacks before it, a line each."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return re.sub(r"^(\w+\.)*\w*(Error|Exception): ", "", last)


def _absolute(path: str, base: Path) -> str:
    return path if not path or "://" in path else str((base / path).absolute())


def _absolute_source(source: SourceConfig) -> SourceConfig:
    def absolute(_: str, part: PartConfig) -> PartConfig:
        table = _absolute(part.conditions.table, Path.cwd())
        conditions = dataclasses.replace(part.conditions, table=table)
        return dataclasses.replace(part, path=_absolute(part.path, Path.cwd()), conditions=conditions)

    return map_parts(source, absolute)
