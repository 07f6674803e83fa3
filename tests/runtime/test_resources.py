"""Placement: hand-made clusters, and the preflight on a real one."""

from collections.abc import Callable

import pytest

from echodfkd.config import RunConfig
from echodfkd.runtime.preflight import run_preflight
from echodfkd.runtime.resources import Node, place, roles

GPU = [
    "train.workers=2",
    "train.num_gpus=1",
    "train.node_label=pool=student",
    "teacher.num_gpus=1",
    "teacher.min_actors=2",
    "teacher.max_actors=4",
    "evaluation.node_label=pool=eval",
    "evaluation.num_cpus=1",
]


def test_every_role_finds_its_node(tiny_config: Callable[..., RunConfig]) -> None:
    nodes = [
        Node("head", 1, 0),
        Node("students", 4, 2, {"pool": "student"}),
        Node("teachers", 4, 2),
        Node("eval", 1, 0, {"pool": "eval"}),
    ]
    assert place(roles(tiny_config(*GPU)), nodes) == []
    assert [(node.cpus, node.gpus) for node in nodes] == [(0.5, 0), (2, 0), (2, 0), (0, 0)]


def test_what_does_not_fit_is_said_with_numbers(tiny_config: Callable[..., RunConfig]) -> None:
    nodes = [Node("head", 8, 0), Node("students", 4, 1, {"pool": "student"})]
    sentences = place(roles(tiny_config(*GPU)), nodes)
    assert len(sentences) == 3
    assert sentences[0].startswith("train: 1 of 2 student processes fit (1 CPU, 1 GPU each on a node labelled pool=st")
    assert any(text.startswith("evaluation: 0 of 1 evaluator processes fit") for text in sentences)
    assert any(text.startswith("teacher: 0 of 2 teacher processes fit (1 CPU, 1 GPU each;") for text in sentences)


def test_every_pool_of_an_ensemble_is_a_role(tiny_config: Callable[..., RunConfig]) -> None:
    ensemble = ["teacher.kind=ensemble", "teacher.members.small.kind=embedded", "teacher.members.big.kind=embedded"]
    big = ["big.num_gpus=1", "big.min_actors=2", "big.max_actors=2", "big.node_label=pool=big", "small.num_cpus=0.5"]
    config = tiny_config(*ensemble, "teacher.pools=each", *(f"teacher.members.{option}" for option in big))
    found = {role.name: role for role in roles(config) if role.name.startswith("teacher")}
    assert {name: (r.count, r.cpus, r.gpus, r.labels, r.option) for name, r in found.items()} == {
        "teacher.big": (2, 1, 1, {"pool": "big"}, "teacher.members.big"),
        "teacher.small": (1, 0.5, 0, {}, "teacher.members.small"),
        "teacher": (1, 1, 0, {}, "teacher"),
    }
    sentences = place(roles(config), [Node("head", 8, 0), Node("gpus", 4, 1, {"pool": "big"})])
    assert sentences[0].startswith("teacher.members.big: 1 of 2 teacher.big processes fit (1 CPU, 1 GPU each on a node")
    assert [role.name for role in roles(tiny_config(*ensemble)) if "teacher" in role.name] == ["teacher"]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_preflight_says_ready_or_what_is_missing(tiny_config: Callable[..., RunConfig]) -> None:
    lines: list[str] = []
    ready = run_preflight(tiny_config(), lines.append)
    assert ready["ok"], lines
    assert ready["seconds"] < 20
    assert any(line.startswith("versions  ok: python 3.") for line in lines)
    short = run_preflight(tiny_config("train.workers=4", "train.num_cpus=4"), lines.append)
    assert not short["ok"]
    assert short["missing"][0].startswith("train: 2 of 4 student processes fit (4 CPU, 0 GPU each")
    assert any("teacher: 0 of 1" in text for text in short["missing"])  # nothing is left for the others
    broken = run_preflight(tiny_config("teacher.weights=/nowhere.safetensors"), lines.append)
    assert "teacher.weights" in broken["missing"][0]
