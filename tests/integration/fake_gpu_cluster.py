"""A program: a cluster of four nodes of which two declare GPUs that do not exist, and a run placed on it.

Usage: python fake_gpu_cluster.py STORAGE. Prints one JSON object: which node each actor of each stage ran on.
"""

import json
import sys
import threading

import ray
from ray.cluster_utils import Cluster

from echodfkd.config.file import load_config
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from tests.conftest import TINY

PLACEMENT = [
    "teacher.num_gpus=1",
    "teacher.num_cpus=1",
    "teacher.min_actors=2",
    "teacher.max_actors=2",
    "teacher.node_label=pool=teacher",
    "train.workers=2",
    "train.num_gpus=1",
    "train.num_cpus=1",
    "train.node_label=pool=student",
    "evaluation.num_cpus=1",
    "evaluation.node_label=ray-subcluster=eval",
    "data.no_progress_timeout_s=60",
]


def main(storage: str) -> None:
    """Start, run, print, end."""
    head = {"num_cpus": 3, "include_dashboard": True, "object_store_memory": 150 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    labels = [("teacher", {"pool": "teacher"}, 2), ("student", {"pool": "student"}, 2)]
    nodes = {"head": cluster.head_node.node_id}
    for name, label, gpus in labels:
        node = cluster.add_node(num_cpus=3, num_gpus=gpus, labels=label, object_store_memory=100 << 20)
        nodes[name] = node.node_id
    node = cluster.add_node(num_cpus=2, labels={"ray-subcluster": "eval"}, object_store_memory=100 << 20)
    nodes["eval"] = node.node_id
    config = load_config(None, [f"storage={storage}", "name=gpu", *TINY, *PLACEMENT, f"ray.address={cluster.address}"])
    lines: list[str] = []
    result: dict[str, object] = {}

    def work() -> None:
        try:
            result.update(run_distillation(config, lines.append))
        except Exception as error:
            result["error"] = repr(error)

    runner = threading.Thread(target=work)
    runner.start()
    runner.join(timeout=300)
    names = {node_id[:6]: name for name, node_id in nodes.items()}
    placed: dict[str, set[str]] = {}
    for span in read_rows(RunStorage(config.root)).spans.to_pylist():
        placed.setdefault(span["stage"], set()).add(names[span["actor"].split("-")[1]])
    print(
        json.dumps(
            {
                "placed": {k: sorted(v) for k, v in placed.items()},
                "ledger": result.get("ledger"),
                "error": result.get("error"),
                "lines": lines[-3:],
            }
        )
    )
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
