"""A program: students on two hosts, network namespaces with addresses of their own. One is drained, one loses power.

Usage: python students_run.py FOLDER. It makes namespaces and leaves processes behind: run it in network, mount and PID
namespaces of its own. Prints one JSON object.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from echodfkd.reporting.rows import read_rows
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import list_checkpoints
from tests.conftest import TINY
from tests.helpers.network_hosts import inside, sh
from tests.helpers.ray_command import ray_command
from tests.integration.hosts_run import ADDRESS, ROOT, is_gone, make_hosts, nodes, start_node, wait_until

HOSTS = {"head": ("10.77.0.1", ""), "teachers": ("10.77.0.2", "pool=teacher"), "one": ("10.77.0.3", "pool=student"),
         "two": ("10.77.0.4", "pool=student")}  # fmt: skip
RUN = [
    "train.steps=240", "train.checkpoint_every=40", "train.workers=2", "train.num_cpus=2", "train.threads=1",
    "train.node_label=pool=student", "teacher.node_label=pool=teacher", "teacher.num_cpus=0.5",
    "evaluation.enabled=false", "data.source_num_cpus=0.5", "data.no_progress_timeout_s=180", "ray.progress_s=2",
]  # fmt: skip
"""A host has two CPUs, so that each holds one of the two workers."""


def main(folder: Path) -> None:
    """Hosts, cluster, run; the drain of a host, the loss of the other one, each of which joins again; the end."""
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"  # all these hosts have one name, which is an address of each
    make_hosts(HOSTS)
    for host, place in HOSTS.items():
        start_node(folder, host, *place)
    options = [f"storage={folder}/runs", "name=students", *TINY, *RUN, f"ray.address={ADDRESS}"]
    log = folder / "driver.log"
    with log.open("w") as sink:
        command = inside("head", sys.executable, "jobs/distill.py", *options)
        driver = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)
    storage = RunStorage(f"{folder}/runs/students")

    def published() -> list[int]:
        assert driver.poll() is None, f"the run ended: {log.read_text()[-3000:]}"
        return [commit.step for commit in list_checkpoints(storage)] if storage.exists("checkpoints") else []

    def lose(host: str) -> tuple[float, float]:
        known = published()
        sh("ip", "link", "set", f"to-{host}", "down")
        given_up_s = wait_until("giving the host up", lambda: is_gone(HOSTS[host][0]), 90)
        sh("ip", "link", "set", f"to-{host}", "up")
        start_node(folder, host, *HOSTS[host])
        return given_up_s, wait_until("a checkpoint with it", lambda: len(published()) > len(known), 240)

    wait_until("a checkpoint", lambda: bool(published()), 240)
    drain = ["drain-node", f"--address={ADDRESS}", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
    one = next(node for address, alive, node in nodes() if alive and address == HOSTS["one"][0])
    sh(*inside("head", *ray_command(folder), *drain, f"--node-id={one}", "--deadline-remaining-seconds=20"))
    noticed_s = wait_until("a checkpoint for the drain", lambda: any(step % 40 for step in published()), 20)
    times = [*lose("one"), *lose("two")]
    driver.wait(timeout=300)
    workers = {row["actor"] for row in read_rows(storage).spans.to_pylist() if row["stage"] == "students"}
    last = log.read_text().splitlines()[-1:]
    found = {"exit": driver.returncode, "last": last, "noticed_s": noticed_s, "times_s": times}
    print(json.dumps({**found, "workers": sorted(workers)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # the result is out; a library's thread was seen to abort this process while it was taken down
