"""A program: a head node alone, Ray's autoscaler with make-believe machines, and a run that makes it bring them.

Usage: python autoscaling_run.py FOLDER. It leaves processes behind: run it in a PID namespace of its own. Prints one
JSON object: what the run gave, and (seconds, types of live nodes) whenever that changed.

Ray's own `AutoscalingCluster` cannot be made of the wheel (it reads an example file that the wheel leaves out) and
ends every Ray on the machine when it stops.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray

from echodfkd.config.file import load_config
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from tests.conftest import TINY
from tests.helpers.ray_command import ray_command

HEAD_ID = "0" * 50 + "fake00"
IDLE_S = 15.0
PORT = 6399
STORE = 150_000_000
TYPES = {"teacher": ({"CPU": 1}, {"pool": "teacher"}, 3), "student": ({"CPU": 1}, {"pool": "student"}, 1),
         "eval": ({"CPU": 1}, {"ray-subcluster": "eval"}, 1)}  # fmt: skip
"""Type of node -> resources, labels, most of them."""
PLACEMENT = [
    "teacher.node_label=pool=teacher", "teacher.min_actors=1", "teacher.max_actors=2", "train.node_label=pool=student",
    "evaluation.node_label=ray-subcluster=eval", "evaluation.num_cpus=1", "ray.wait_for_nodes_s=120",
    "data.source_num_cpus=0.5", "data.no_progress_timeout_s=120",
]  # fmt: skip


def autoscaler_config() -> dict[str, Any]:
    """Ray's make-believe provider: `ray start` on this machine in place of a cloud's machines."""
    kinds = {
        name: {
            "resources": {**resources, "object_store_memory": STORE},
            "labels": labels,
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for name, (resources, labels, most) in TYPES.items()
    }
    kinds["ray.head.default"] = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    empty_lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
                   "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")  # fmt: skip
    return {
        "cluster_name": "make-believe",
        "max_workers": 5,
        "idle_timeout_minutes": IDLE_S / 60,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "gcs_address": f"127.0.0.1:{PORT}",
        },
        "available_node_types": kinds,
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "docker": {},
        **{name: [] for name in empty_lists},
    }


def start_head(folder: Path) -> None:
    """`ray start --head` with that autoscaler."""
    config = folder / "autoscaler.json"
    config.write_text(json.dumps(autoscaler_config()))
    environment = {
        **os.environ,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    command = [*ray_command(folder), "start", "--head", f"--port={PORT}", f"--autoscaling-config={config}"]
    command += [
        "--num-cpus=1",
        f"--object-store-memory={STORE}",
        f"--temp-dir={folder / 'ray'}",
        "--include-dashboard=true",
    ]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)


def live_types() -> list[str]:
    """Types of the nodes that are alive, sorted; the head is "head"."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            labels = node.get("Labels") or {}
            kind = next((name for name, (_, wanted, _) in TYPES.items() if wanted.items() <= labels.items()), "head")
            found.append(kind)
    return sorted(found)


def main(folder: Path) -> None:
    """Start, run, watch, print."""
    started = time.monotonic()
    start_head(folder)
    ray.init(address=f"127.0.0.1:{PORT}", log_to_driver=False)
    events: list[tuple[float, list[str]]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            types = live_types()
            if not events or events[-1][1] != types:
                events.append((round(time.monotonic() - started, 1), types))

    watcher = threading.Thread(target=watch)
    watcher.start()
    lines: list[str] = []
    options = [f"storage={folder}", "name=grown", *TINY, *PLACEMENT, f"ray.address=127.0.0.1:{PORT}"]
    config = load_config(None, options)
    result: dict[str, Any] = {}
    try:
        result = run_distillation(config, lines.append)
    except Exception as error:
        result = {"error": repr(error)}
    ended = time.monotonic() - started
    deadline = time.monotonic() + IDLE_S + 60
    while live_types() != ["head"] and time.monotonic() < deadline:
        time.sleep(0.5)
    done.set()
    watcher.join()
    spans = read_rows(RunStorage(config.root)).spans.to_pylist() if "error" not in result else []
    print(
        json.dumps(
            {
                "error": result.get("error"),
                "ledger": result.get("ledger"),
                "events": events,
                "ended_s": round(ended, 1),
                "lines": [line for line in lines if "nodes" in line],
                "last_nodes": live_types(),
                "stages": sorted({span["stage"] for span in spans}),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
