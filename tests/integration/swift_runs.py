"""The same tiny run on a disk and on S3, in a process of its own: a cluster's workers know the variables of its start.

Usage: python -m tests.integration.swift_runs BUCKET LOCAL, with AWS_ENDPOINT_URL and credentials set. Prints what it
found, as JSON.
"""

import hashlib
import json
import sys
from typing import Any

from echodfkd.config.file import load_config
from echodfkd.config.run import RayConfig, RunConfig
from echodfkd.runtime.cluster.connection import connected
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from tests.conftest import TINY
from tests.helpers.echonet import write_small_folder

OF_A_START = ("attempt", "time", "busy_s")
"""Columns of rows that say when and in which process, not what."""


def config_at(root: str) -> RunConfig:
    """The run whose clips and whose folder lie under this root."""
    recorded = ["source.kind=recorded", f"source.path={root}/clips"]
    cases = [f"evaluation.{option}" for option in recorded]
    options = [f"storage={root}/runs", "name=tiny", *TINY, *recorded, *cases, "evaluation.source.split=TEST"]
    return load_config(None, [*options, "ray.address=local"])


def rows_of(storage: RunStorage, folder: str) -> list[Any]:
    """The rows of all parts of a folder but for `OF_A_START`, sorted: parts have names of their own."""
    names = [name for name in storage.list(folder) if name.endswith(".parquet")]
    rows = [row for name in names for row in storage.read_table(name).to_pylist()]
    return sorted(({key: value for key, value in row.items() if key not in OF_A_START} for row in rows), key=repr)


def facts(config: RunConfig, summary: dict[str, Any]) -> dict[str, Any]:
    """What of a run must not depend on where it lies."""
    storage = RunStorage(config.root)
    checked = check_ledger(storage, config.plan_slots)
    newest = storage.list("checkpoints")[-1]
    tables = [name for name in storage.list("report") if name.endswith(".csv")]
    return {
        "checkpoints": storage.list("checkpoints"),
        "weights": hashlib.sha256(storage.read(f"{newest}/a/student.safetensors")).hexdigest(),
        "ledger": rows_of(storage, "ledger"),
        "scores": rows_of(storage, "scores"),
        "cases": storage.read_table("cases.parquet").to_pylist(),
        "checked": [checked.clips, checked.lost, checked.repeated, checked.problems],
        "summary": {
            "scores": summary["students"]["a"]["scores"],
            "teacher": summary["teacher"],
            "ledger": summary["ledger"],
        },
        "report": {name: hashlib.sha256(storage.read(name)).hexdigest() for name in tables},
        "page": len(storage.read("report.html")),
    }


def main(bucket: str, local: str) -> None:
    """Clips, run and facts of both places."""
    found = {}
    with connected(RayConfig(address="local", num_cpus=4, object_store_mb=128)):
        for name, root in (("s3", bucket), ("disk", local)):
            write_small_folder(f"{root}/clips", videos=6, splits=("TRAIN", "TRAIN", "TEST"))
            config = config_at(root)
            found[name] = facts(config, run_distillation(config, lambda line: None))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
