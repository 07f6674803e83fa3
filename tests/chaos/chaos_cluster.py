"""A Ray cluster on this machine, with ports and a folder of its own, whose processes can be killed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from echodfkd.config.run import RayConfig
from echodfkd.core.errors import RunError
from tests.helpers.ports import free_port
from tests.helpers.ray_command import ray_command

TITLES = {
    "teacher": "ray::MapWorker(MapBatches(TeacherActor))",
    "source": "ray::ReadClips",
    "evaluator": "ray::Evaluator",
    "student": "ray::RayTrainWorker",
    "coordinator": "ray::SplitCoordinator",
    "controller": "ray::TrainController",
}
"""Role -> start of the title that Ray gives its processes; a method's name may follow."""

START_TRIES = 3
"""Attempts to start a node."""


class Node:
    """One `ray start --block` with its raylet and workers."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.log = folder / "start.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._root = psutil.Process(self._process.pid)

    def processes(self) -> list[psutil.Process]:
        """All living processes of this node."""
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def raylets(self) -> list[psutil.Process]:
        """The node's raylet: a list of one, or empty if it has ended."""
        return [process for process in self.processes() if _title(process).endswith("/raylet")]

    def kill(self) -> None:
        """Kill all processes at once, like a power failure."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def wait_until_up(self) -> None:
        """Wait until the node runs. Raises `RunError` if it ends instead."""
        while b"Ray runtime started" not in self.log.read_bytes():
            if self._process.poll() is not None:
                raise RunError(f"a Ray node did not start: {self.log.read_text()[-500:].strip()}")
            time.sleep(0.2)


class ChaosCluster:
    """A head node and any number of others. The ``with`` block ends all processes and deletes the files.

    Args:
        options: sizes of the head node.
    """

    def __init__(self, options: RayConfig) -> None:
        self._options = options
        self._folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # sockets need short paths
        self.nodes: list[Node] = []
        self.address = ""

    def __enter__(self) -> ChaosCluster:
        try:
            self.start_head()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_head(self) -> Node:
        """Start a head node and take its address."""
        ports = {"port": free_port(), "ray-client-server-port": free_port(), "dashboard-port": free_port()}
        options = self._options
        node = self._start(
            ["--head", *(f"--{name}={port}" for name, port in ports.items()), "--include-dashboard=false"],
            num_cpus=options.num_cpus,
            object_store_mb=options.object_store_mb,
        )
        self.address = f"127.0.0.1:{ports['port']}"
        return node

    def add_node(self, *, num_cpus: int, label: str = "", object_store_mb: int = 100) -> Node:
        """Start one more node. ``label``: key=value."""
        labels = [f"--labels={label}"] if label else []
        return self._start([f"--address={self.address}", *labels], num_cpus=num_cpus, object_store_mb=object_store_mb)

    def processes(self, role: str) -> list[psutil.Process]:
        """Living processes of a role (a key of TITLES)."""
        return of_role(role, [process for node in self.nodes for process in node.processes()])

    def _start(self, arguments: list[str], *, num_cpus: int, object_store_mb: int) -> Node:
        """Start a node. Tries again if it does not start: Ray gives up after 30 s, too early on a busy machine."""
        sizes = [f"--num-cpus={num_cpus}", "--num-gpus=0", f"--object-store-memory={object_store_mb << 20}"]
        # other clusters on this machine use the default port ranges
        ports = ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"]
        program = [*ray_command(self._folder), "start", "--block"]
        for tries_left in reversed(range(START_TRIES)):
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            if "--head" in arguments:
                sizes = [*sizes[:3], f"--temp-dir={folder}"]
            node = Node([*program, *arguments, *sizes, *ports, "--disable-usage-stats"], folder)
            self.nodes.append(node)
            try:
                node.wait_until_up()
                return node
            except RunError:
                node.kill()
                if not tries_left:
                    raise
        raise AssertionError("unreachable")


def of_role(role: str, processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of a role (a key of TITLES)."""
    return [process for process in processes if _title(process).startswith(TITLES[role])]


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""
