"""A program: four hosts on one machine, network namespaces with addresses of their own, and a run across them.

Usage: python hosts_run.py FOLDER. It makes namespaces and leaves processes behind: run it in network, mount and PID
namespaces of its own. One host with teachers is cut off in the middle of the run until the cluster has given it up,
then connected again. Prints one JSON object.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echodfkd.reporting.rows import read_rows
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import list_checkpoints
from tests.conftest import TINY
from tests.helpers.network_hosts import inside, sh
from tests.helpers.ray_command import ray_command

ROOT = Path(__file__).parents[2]
HOSTS = {"head": ("10.77.0.1", ""), "one": ("10.77.0.2", "pool=teacher"), "two": ("10.77.0.3", "pool=teacher"),
         "students": ("10.77.0.4", "pool=student")}  # fmt: skip
"""Name -> address and Ray label."""
ADDRESS = "10.77.0.1:6379"
HEALTH = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 1000, "health_check_timeout_ms": 2000,
          "health_check_failure_threshold": 5}  # fmt: skip
"""A node that is silent for some 10 s is dead."""
RUN = [
    "train.steps=60", "train.checkpoint_every=10", "train.num_cpus=1", "train.node_label=pool=student",
    "teacher.node_label=pool=teacher", "teacher.min_actors=2", "teacher.max_actors=2", "data.source_num_cpus=0.5",
    "data.no_progress_timeout_s=180", "ray.progress_s=2",
]  # fmt: skip


def make_hosts(hosts: Mapping[str, tuple[str, str]]) -> None:
    """A bridge, and a namespace for each host that a cable connects with it."""
    sh("mount", "-t", "tmpfs", "tmpfs", "/run")
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "bridge", "type", "bridge")
    sh("ip", "link", "set", "bridge", "up")
    for host, (address, _) in hosts.items():
        sh("ip", "netns", "add", host)
        sh("ip", "link", "add", f"to-{host}", "type", "veth", "peer", "name", "eth0", "netns", host)
        sh("ip", "link", "set", f"to-{host}", "master", "bridge", "up")
        sh(*inside(host, "ip", "link", "set", "lo", "up"))
        sh(*inside(host, "ip", "addr", "add", f"{address}/24", "dev", "eth0"))
        sh(*inside(host, "ip", "link", "set", "eth0", "up"))


def start_node(folder: Path, host: str, address: str, label: str) -> None:
    """Ray on one host, with a temporary folder of its own: two raylets must not share one."""
    command = [*ray_command(folder), "start", f"--node-ip-address={address}", "--num-cpus=2"]
    command += ["--object-store-memory=120000000", f"--temp-dir={folder / host}"]
    if host == "head":
        command += ["--head", "--port=6379", f"--system-config={json.dumps(HEALTH)}", "--include-dashboard=true"]
    else:
        command += [f"--address={ADDRESS}", f"--labels={label}"]
    sh(*inside(host, *command))


def nodes() -> list[list[Any]]:
    """[address, whether it is alive, id] of every node that has been."""
    code = f"import json, ray; ray.init({ADDRESS!r}, log_to_driver=False, logging_level=50);"
    code += "print('nodes:' + json.dumps([[n['NodeManagerAddress'], n['Alive'], n['NodeID']] for n in ray.nodes()]))"
    done = subprocess.run(inside("head", sys.executable, "-c", code), capture_output=True, text=True, check=True)
    return json.loads(next(line[6:] for line in done.stdout.splitlines() if line.startswith("nodes:")))


def is_gone(address: str) -> bool:
    """Whether the cluster has given up a host."""
    return not any(alive for own, alive, _ in nodes() if own == address)


def wait_until(what: str, condition: Any, seconds: float) -> float:
    """Seconds until it held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.5)
    return time.monotonic() - started


def main(folder: Path) -> None:
    """Hosts, cluster, run, cut, heal, end."""
    make_hosts(HOSTS)
    for host, place in HOSTS.items():
        start_node(folder, host, *place)
    options = [f"storage={folder}/runs", "name=hosts", *TINY, *RUN, f"ray.address={ADDRESS}"]
    command = inside("head", sys.executable, "jobs/distill.py", *options)
    log = folder / "driver.log"
    with log.open("w") as sink:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)
    storage = RunStorage(f"{folder}/runs/hosts")

    def published() -> int:
        assert driver.poll() is None, f"the run ended: {log.read_text()[-3000:]}"
        return len(list_checkpoints(storage)) if storage.exists("checkpoints") else 0

    wait_until("a checkpoint", lambda: published() >= 1, 200)
    before = published()
    sh("ip", "link", "set", "to-one", "down")
    given_up_s = wait_until("giving the host up", lambda: is_gone(HOSTS["one"][0]), 90)
    went_on_s = wait_until("a checkpoint without it", lambda: published() > before, 400)
    sh("ip", "link", "set", "to-one", "up")
    driver.wait(timeout=300)
    output = log.read_text()
    rows = read_rows(storage).spans.to_pylist()
    places = {
        stage: {row["actor"].split("-")[1] for row in rows if row["stage"] == stage}
        for stage in ("teacher", "students")
    }
    print(
        json.dumps(
            {
                "exit": driver.returncode,
                "last": output.splitlines()[-1] if output else "",
                "given_up_s": round(given_up_s, 1),
                "went_on_s": round(went_on_s, 1),
                "places": {stage: len(found) for stage, found in places.items()},
                "apart": not places["teacher"] & places["students"],
                "hosts": os.cpu_count() and len(HOSTS),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # the result is out; a library's thread was seen to abort this process while it was taken down
