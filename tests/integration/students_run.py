"""A program: students on two hosts, network namespaces with addresses of their own; one host is lost and comes back.

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
from tests.integration.hosts_run import ADDRESS, ROOT, inside, make_hosts, nodes, sh, start_node, wait_until

HOSTS = {"head": ("10.77.0.1", ""), "teachers": ("10.77.0.2", "pool=teacher"), "one": ("10.77.0.3", "pool=student"),
         "two": ("10.77.0.4", "pool=student")}  # fmt: skip
RUN = [
    "train.steps=60", "train.checkpoint_every=10", "train.workers=2", "train.num_cpus=2", "train.threads=1",
    "train.node_label=pool=student", "teacher.node_label=pool=teacher", "teacher.num_cpus=0.5",
    "evaluation.enabled=false", "data.source_num_cpus=0.5", "data.no_progress_timeout_s=180", "ray.progress_s=2",
]  # fmt: skip
"""A host has two CPUs, so that each holds one of the two workers."""


def main(folder: Path) -> None:
    """Hosts, cluster, run, a host without power, the same host again, end."""
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

    def published() -> int:
        assert driver.poll() is None, f"the run ended: {log.read_text()[-3000:]}"
        return len(list_checkpoints(storage)) if storage.exists("checkpoints") else 0

    wait_until("a checkpoint", lambda: published() >= 1, 240)
    before = published()
    sh("ip", "link", "set", "to-two", "down")
    address, label = HOSTS["two"]
    given_up_s = wait_until("giving the host up", lambda: [address, False] in nodes(), 90)
    sh("ip", "link", "set", "to-two", "up")
    start_node(folder, "two", address, label)
    went_on_s = wait_until("a checkpoint with it", lambda: published() > before, 240)
    driver.wait(timeout=300)
    workers = {row["actor"] for row in read_rows(storage).spans.to_pylist() if row["stage"] == "students"}
    last = log.read_text().splitlines()[-1:]
    found = {"exit": driver.returncode, "last": last, "given_up_s": given_up_s, "went_on_s": went_on_s}
    print(json.dumps({**found, "workers": sorted(workers)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # the result is out; a library's thread was seen to abort this process while it was taken down
