"""Connect the driver to its cluster: the one at ray.address, or a local one that ends with the run."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import shlex
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from echodfkd.config.run import RayConfig, RunConfig
from echodfkd.config.sections.option import Declaration, replace_options
from echodfkd.core.errors import RunError, plain_sentence
from echodfkd.core.terminal import print_line
from echodfkd.runtime.cluster.environment import QUIET_RAY, cluster_address, shared_cores
from echodfkd.runtime.cluster.host_memory import kept_memory

ANSWER_TIMEOUT_S = 4.0
"""Time for the host of a cluster's address to accept a connection."""

JOIN_TIMEOUT_S = 20.0
"""Time for `ray.init` to join a running cluster: a second or two if the cluster is healthy."""

START_S = 120.0
"""Time that a joined cluster is watched. Later Ray's own rule holds: it waits a minute for a head that restarts."""

WATCH_S = 2.0
"""Seconds between two checks that the cluster still listens."""


@contextlib.contextmanager
def connected(options: RayConfig) -> Iterator[None]:
    """Connect to the cluster for the duration of the block; a local cluster ends with it.

    `auto` means RAY_ADDRESS if that is set, as it is in a submitted job, else a new local cluster. Clusters that
    happen to run on this machine are not searched for: their address files outlive them.

    Raises:
        RunError: the cluster cannot be reached or started, or accepts anyone.
    """
    if ray.is_initialized():
        yield
        return
    address, left = cluster_address(options.address), threading.Event()
    _connect(options, address)
    if address != "local":
        threading.Thread(target=_watch_start, args=(address, left), name="cluster", daemon=True).start()
    try:
        yield
    finally:
        left.set()
        ray.shutdown()


def _connect(options: RayConfig, address: str) -> None:
    check_authentication(address, allowed=options.allow_unauthenticated)
    kept = kept_memory() if options.keep_memory else {}
    shared = shared_cores() if address == "local" else {}
    runtime_env: dict[str, object] = {"env_vars": {**QUIET_RAY, **kept, **shared}}
    if shlex.quote(sys.executable) != sys.executable:
        # Ray starts workers through a shell and does not quote the interpreter: from a path with a space
        # no actor would start, and no error would be shown
        runtime_env["py_executable"] = shlex.quote(sys.executable)
    common: dict[str, Any] = {"runtime_env": runtime_env, "logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        sentence = "ray.address: a local cluster could not be started"
        common |= {"num_cpus": options.num_cpus, "object_store_memory": options.object_store_mb << 20}
        common["include_dashboard"] = False
        limit: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    else:
        check_listening(address)
        sentence = f"ray.address: something listens at {_named(address)}, but Ray could not join a cluster there"
        limit = _exit_after(JOIN_TIMEOUT_S, sentence)
    try:
        with limit:
            ray.init(address=address, **common)
    except Exception as error:
        raise RunError(f"{sentence}: {last_sentence(error)}") from error


def check_listening(address: str) -> None:
    """Raise `RunError` if nothing listens at a cluster's address; Ray would retry for minutes."""
    parts = _split(address)
    try:
        port = parts.port
        if parts.hostname and port:
            socket.create_connection((parts.hostname, port), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, ValueError) as error:  # ValueError: the port is not a number
        raise RunError(
            f"ray.address: no cluster answers at {_named(address)} ({getattr(error, 'strerror', None) or error}); start"
            " one there, or set ray.address=local"
        ) from error


def _named(address: str) -> str:
    return f"{address} (from RAY_ADDRESS)" if address == os.environ.get("RAY_ADDRESS") else address


def _watch_start(address: str, left: threading.Event) -> None:
    """End this process with a sentence if the cluster goes away in the first `START_S`, when Ray's calls only block."""
    deadline, failed = time.monotonic() + START_S, 0
    while time.monotonic() < deadline and not left.wait(WATCH_S):
        try:
            check_listening(address)
            failed = 0
        except RunError:
            failed += 1
        if failed == 2:
            _exit(f"ray.address: the cluster at {_named(address)} went away while the job started", stderr=2)


@contextlib.contextmanager
def _exit_after(seconds: float, sentence: str) -> Iterator[None]:
    """End this process with a sentence if the block takes longer; Ray's raw lines are dropped.

    For calls that block in C++, which neither an exception nor a signal interrupts.
    """
    stderr = os.dup(2)
    timer = threading.Timer(seconds, _exit, (f"{sentence} within {seconds:g} s", stderr))
    timer.daemon = True
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        os.dup2(stderr, 2)
        os.close(stderr)


def _exit(sentence: str, stderr: int) -> None:
    os.write(stderr, f"error: {plain_sentence(sentence)}\n".encode())
    os._exit(1)


def check_authentication(address: str, *, allowed: bool) -> None:
    """Refuse a cluster that runs the code of anyone who reaches its ports.

    Ray listens on every interface, also for a local cluster, and whatever address one dials. Without a token, a running
    cluster of this machine is used with a warning, and a cluster on another machine is refused. A token in the
    environment shows only that this process has one: the cluster is asked whether it answers without.

    Args:
        address: local, or a cluster's address.
        allowed: ray.allow_unauthenticated, which turns the refusal into the warning.

    Raises:
        RunError: the environment holds no token mode, or the cluster needs none.
    """
    mode, reason = os.environ.get("RAY_AUTH_MODE", ""), "it answers callers without a token"
    if mode != "token":
        reason = f"RAY_AUTH_MODE is {mode or 'not set'}"
    elif address == "local" or not answers_anyone(address):
        return
    cluster = "a new local cluster" if address == "local" else f"the cluster at {address}"
    sentence = (
        f"ray.address: {cluster} would be used without authentication ({reason}), and"
        " anyone who reaches its ports could run code on it"
    )
    if allowed or (address != "local" and _is_this_machine(address)):
        print_line(f"warning: {sentence}", to=sys.stderr)
        return
    raise RunError(
        f"{sentence}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, there and here, or ray.allow_unauthenticated=true if"
        " its ports are closed to others"
    )


def answers_anyone(address: str) -> bool:
    """Whether a cluster answers a caller without a token: its GCS, or its client server at a ray:// address."""
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc, ray_client_pb2, ray_client_pb2_grpc

    target = address.partition("://")[2] or address
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            if "://" in address:
                ping = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING)
                driver = ray_client_pb2_grpc.RayletDriverStub(channel)
                driver.ClusterInfo(ping, timeout=ANSWER_TIMEOUT_S, metadata=(("client_id", "echodfkd"),))
            else:
                nodes = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
                nodes.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=ANSWER_TIMEOUT_S)
        except grpc.RpcError:  # a token is missing, or nothing listens, which is told later
            return False
    return True


def _split(address: str) -> urllib.parse.SplitResult:
    return urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")


def _hosts(address: str) -> set[str]:
    """IP addresses of an address's host; none if it cannot be resolved."""
    host = _split(address).hostname or ""
    try:
        return {str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return set()


def _is_loopback(address: str) -> bool:
    hosts = _hosts(address)
    return bool(hosts) and all(ipaddress.ip_address(host).is_loopback for host in hosts)


def _is_this_machine(address: str) -> bool:
    """Whether an address belongs to this machine. Ray's own `auto` finds only clusters of this machine."""
    import psutil

    own = {found.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for found in addresses}
    return address == "auto" or _is_loopback(address) or (bool(hosts := _hosts(address)) and hosts <= own)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with local paths made absolute: actors run in other working directories.

    A submitted job runs in an unpacked copy of its working directory that Ray deletes later, so that paths of outputs
    are taken from the home folder there.
    """
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    bases = {"input": Path.cwd(), "output": Path.home() if in_job else Path.cwd()}

    def absolute(declared: Declaration, value: Any) -> Any:
        if not declared.path or not value or "://" in value or value.startswith("hf-hub:"):
            return value
        return str((bases[declared.path] / value).absolute())

    return replace_options(config, absolute)


def node_labels(option: str) -> dict[str, str] | None:
    """Ray's label selector for a `node_label` option; None if it is empty."""
    if not option:
        return None
    key, value = option.split("=", 1)
    return {key: value}


def labels_of_stream(option: str, evaluation: str) -> dict[str, str] | None:
    """Label selector of a stage of the stream: its own label, else every node but the evaluators'."""
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
    """Name of this process in the timeline: stage, first digits of the node id, process id."""
    return f"{stage}-{ray.get_runtime_context().get_node_id()[:6]}-{os.getpid()}"


def last_sentence(error: BaseException) -> str:
    """The innermost message of an error from another process: Ray puts the traceback's lines before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return re.sub(r"^(\w+\.)*\w*(Error|Exception): ", "", last)
