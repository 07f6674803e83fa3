"""Runs whose folders lie on S3, in a process of their own: a cluster's workers know the variables of its start alone.

Usage: python -m tests.integration.s3_runs BUCKET KILLED LOCAL, with AWS_ENDPOINT_URL and credentials set. BUCKET/faulty
is behind faults, KILLED is the folder of a killed job, LOCAL a folder of this machine. Prints what it found, as JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np

from echodfkd.config.file import load_config
from echodfkd.config.run import RayConfig, RunConfig
from echodfkd.runtime.cluster.connection import connected
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.runtime.stream.builders import synthesis_source
from echodfkd.runtime.synthesis_run import run_synthesis
from echodfkd.storage.checkpoints import read_resume
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from tests.conftest import TINY
from tests.helpers.stored import check_folder

CLIPS = 12
SMALL = [
    "window.size=32",
    "window.fps=32",
    f"synthesize.clips={CLIPS}",
    "synthesize.frames=16",
    "synthesize.shard_clips=1",
    "synthesize.preview=2",
    "ray.progress_s=0",
]

STUDENT = "students.a={blocks: 1, layers: 1, filters: 2}"
"""A config without synthesize.out needs one."""


def quiet(line: str) -> None:
    pass


def request(out: str, *overrides: str) -> RunConfig:
    return load_config(None, [*SMALL, "synthesize.num_cpus=2", *overrides, f"synthesize.out={out}"])


def tree(root: str) -> dict[str, bytes]:
    """Every file under a root by its name in it, but the leases: they say who wrote here and when."""
    storage = RunStorage(root)
    base = storage.path("")
    names = (name.removeprefix(f"{base}/") for name in storage.fs.find(base))
    return {name: storage.read(name) for name in names if not name.startswith("lease/")}


def whole_folder(bucket: str, local: str) -> dict[str, object]:
    """An EchoNet folder written through faults, against one on a disk; then both read as sources."""
    there, here = f"{bucket}/faulty/echonet", f"{local}/echonet"
    run_synthesis(request(there), quiet)
    run_synthesis(request(here), quiet)
    on_s3, on_disk = tree(there), tree(here)
    clips = []
    for root in (there, here):
        config = load_config(None, [*SMALL, STUDENT, "source.kind=recorded", f"source.path={root}", "source.split=ALL"])
        clips.append([synthesis_source(config).clip(index) for index in range(3)])
    return {
        "checked": check_folder(RunStorage(there)),
        "same_names": sorted(on_s3) == sorted(on_disk),
        "differ": [name for name, data in on_disk.items() if on_s3.get(name) != data],
        "read_alike": all(
            one.clip_id == other.clip_id and np.array_equal(one.video, other.video)
            for one, other in zip(*clips, strict=True)
        ),
        "again": run_synthesis(request(there), quiet)["made"],
    }


def killed_folder(killed: str, local: str) -> dict[str, object]:
    """A killed job's shards, resumed, against an unbroken folder on a disk."""
    parquet = "synthesize.format=parquet"
    before = tree(killed)
    result = run_synthesis(request(killed, parquet), quiet)
    run_synthesis(request(f"{local}/parquet", parquet), quiet)
    on_s3, on_disk = tree(killed), tree(f"{local}/parquet")
    rows = RunStorage(killed).read_table("clips.parquet")["clip_id"].to_pylist()
    return {
        "committed_before": sum(name.startswith("shards/") for name in before),
        "whole_before": "manifest.json" in before,
        "made": result["made"],
        "checked": check_folder(RunStorage(killed)),
        "distinct": len(set(rows)),
        "same_names": sorted(on_s3) == sorted(on_disk),
        "differ": [name for name, data in on_disk.items() if on_s3.get(name) != data],
    }


def distillation(bucket: str) -> dict[str, object]:
    """A whole run, then one that goes on from before the last commit: as if killed while it was written."""
    config = load_config(None, [*TINY, f"storage={bucket}/faulty/runs", "name=tiny", "ray.address=local"])
    first = run_distillation(config, quiet)
    storage = RunStorage(config.root)
    newest = latest_checkpoint(storage)
    assert newest is not None
    state = read_resume(storage, newest, "a")
    names = storage.list("")
    for name in (
        f"{newest.folder}/manifest.json",
        f"{newest.folder}/a/resume.safetensors",
        "summary.json",
        "report.html",
    ):
        storage.fs.rm_file(storage.path(name))
    lines: list[str] = []
    second = run_distillation(config, lines.append)
    again = latest_checkpoint(storage)
    assert again is not None
    resumed = read_resume(storage, again, "a")
    return {
        "names": names,
        "steps": [newest.step, again.step],
        "same_weights": all(bool((resumed.weights[key] == value).all()) for key, value in state.weights.items()),
        "ledgers": [first["ledger"], second["ledger"]],
        "scored": [
            first["students"]["a"]["scores"]["dice_all"]["n"],
            second["students"]["a"]["scores"]["dice_all"]["n"],
        ],
        "report": second["report"],
        "report_bytes": len(storage.read("report.html")),
        "summary": json.loads(storage.read("summary.json"))["run"],
    }


def main(bucket: str, killed: str, local: str) -> None:
    Path(local).mkdir(exist_ok=True)
    with connected(RayConfig(address="local", num_cpus=4, object_store_mb=128)):
        found = {"whole": whole_folder(bucket, local), "killed": killed_folder(killed, local)}
        found["run"] = distillation(bucket)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
