"""A program: two runs started at once on a cluster that holds one of them, several times over.

Usage: python two_runs.py FOLDER [TRIES]. Run it in namespaces of its own. Prints one JSON object: of every try, each
run's exit code, its lines about room, its ledger, and the names that the cluster's list of runs still has at the end.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray

from tests.conftest import TINY
from tests.helpers.ray_command import ray_command, ray_python

PORT = 6398
NEEDS = ["train.num_cpus=1", "teacher.num_cpus=1", "data.source_num_cpus=0.5"]
"""2.5 CPUs in all, of the head's 4: one run fits, and the students of both would fit beside each other."""


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """One run as a job of its own."""
    options = [f"storage={folder}/runs", f"name={name}", *TINY, *NEEDS, f"ray.address=127.0.0.1:{PORT}"]
    return subprocess.Popen(
        [str(ray_python(folder)), "jobs/distill.py", *options, "ray.wait_for_room_s=240"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outcome(run: subprocess.Popen[str]) -> dict[str, Any]:
    """What a run has printed."""
    lines = run.communicate(timeout=400)[0].splitlines()
    last = lines[-1] if lines else ""
    return {
        "code": run.returncode,
        "room": [line for line in lines if "room" in line],
        "ledger": json.loads(last).get("ledger") if last.startswith("{") else None,
        "end": lines[-3:] if run.returncode else [],
    }


def main(folder: Path, tries: int) -> None:
    """Start the head, and the runs two by two."""
    head = [*ray_command(folder), "start", "--head", f"--port={PORT}", "--num-cpus=4", "--include-dashboard=false",
            "--object-store-memory=200000000", f"--temp-dir={folder / 'ray'}"]  # fmt: skip
    subprocess.run(head, check=True, stdout=sys.stderr)
    found = []
    for number in range(tries):
        runs = [start(folder, f"{letter}{number}") for letter in "ab"]
        found.append([outcome(run) for run in runs])
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    ray.init(address=f"127.0.0.1:{PORT}", log_to_driver=False)
    print(json.dumps({"tries": found, "left": ray.util.list_named_actors(all_namespaces=True)}), flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
