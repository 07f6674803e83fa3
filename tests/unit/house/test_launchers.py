"""The files of launchers that run elsewhere: only fields that their references name, and commands that are ours."""

import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import STOPPED
from echodfkd.runtime.cluster.resources import Node, place, roles
from tests.helpers.kuberay import BOOLEAN, COUNT, STRING, STRINGS, array, record

ROOT = Path(__file__).parents[3]
AMOUNT = {"type": "string", "pattern": r"^[0-9]+\+?$"}
SKYPILOT = record(
    "name resources run",
    name=STRING,
    workdir=STRING,
    envs=STRINGS,
    setup=STRING,
    run=STRING,
    resources=record(
        "accelerators cpus",
        accelerators={"type": "object", "additionalProperties": COUNT},
        cpus=AMOUNT,
        memory=AMOUNT,
        disk_size=COUNT,
        use_spot=BOOLEAN,
        job_recovery=record(
            "strategy",
            strategy={"enum": ["FAILOVER", "EAGER_NEXT_REGION"]},
            max_restarts_on_errors=COUNT,
            recover_on_exit_codes=array({"type": "integer", "minimum": 0, "maximum": 255}),
        ),
    ),
)
"""Of docs.skypilot.co, "SkyPilot YAML" and "Managed jobs"."""
NODES = {"instance_type": STRING}
ANYSCALE = record(
    "name entrypoint image_uri compute_config",
    name=STRING,
    image_uri=STRING,
    working_dir=STRING,
    max_retries=COUNT,
    env_vars=STRINGS,
    entrypoint=STRING,
    compute_config=record(
        "head_node worker_nodes",
        head_node=record("instance_type", **NODES),
        worker_nodes=array(
            record(
                "instance_type min_nodes max_nodes",
                **NODES,
                name=STRING,
                min_nodes=COUNT,
                max_nodes=COUNT,
                market_type={"enum": ["ON_DEMAND", "SPOT", "PREFER_SPOT"]},
            )
        ),
    ),
)
"""Of docs.anyscale.com, JobConfig and ComputeConfig."""


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster" / name).read_text()))


def config_of(command: str) -> RunConfig:
    """The config of a launcher's command, whose files are in the repository."""
    words = shlex.split(command)
    python, job, flag, file, *options = words[words[0] == "exec" :]
    assert (python.rpartition("/")[2], job, flag) == ("python", "jobs/distill.py", "--config")
    assert (ROOT / job).is_file()
    return load_config(str(ROOT / file), options)


@pytest.mark.parametrize(("name", "schema"), [("skypilot.yaml", SKYPILOT), ("anyscale.yaml", ANYSCALE)])
def test_a_launcher_s_file_has_only_fields_that_it_knows(name: str, schema: dict[str, Any]) -> None:
    jsonschema.validate(read(name), schema)
    assert not jsonschema.Draft202012Validator(schema).is_valid({**read(name), "retries": 3})


def test_skypilot_repeats_a_stopped_run_and_no_failed_one() -> None:
    found = read("skypilot.yaml")
    assert found["resources"]["job_recovery"]["recover_on_exit_codes"] == [STOPPED]
    assert found["resources"]["job_recovery"]["max_restarts_on_errors"] == 0
    config = config_of(found["run"])
    assert config.ray.address == "local"  # SkyPilot has a Ray of its own on the machine
    gpus = set(found["resources"]["accelerators"].values())
    assert gpus == {1}
    assert place(roles(config), [Node("machine", config.ray.num_cpus, 1)]) == []
    assert all("-c constraints.txt" in line for line in found["setup"].splitlines() if "pip install" in line)


def test_anyscale_s_smallest_cluster_holds_the_example_config() -> None:
    found = read("anyscale.yaml")
    machines = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())["available_node_types"].values()
    sizes = {machine["node_config"]["InstanceType"]: machine["resources"] for machine in machines}
    nodes = [
        Node(group["name"], sizes[group["instance_type"]]["CPU"], sizes[group["instance_type"]].get("GPU", 0))
        for group in found["compute_config"]["worker_nodes"]
        for _ in range(group["min_nodes"])
    ]
    config = config_of(found["entrypoint"])
    assert place(roles(config), nodes) == []
    (teachers,) = (group for group in found["compute_config"]["worker_nodes"] if group["name"] == "teacher")
    assert teachers["max_nodes"] == config.teacher.max_actors
