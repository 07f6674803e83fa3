"""Placement: hand-made clusters, and the preflight on a real one."""

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.runtime.cluster import rooms
from echodfkd.runtime.cluster.resources import Node, place, roles
from echodfkd.runtime.cluster.rooms import Answer, Guest, Room, admit, room_for
from echodfkd.runtime.cluster.scaling import bundles_of, nodes_for
from echodfkd.runtime.preflight_run import (
    MAX_CLOCK_S,
    node_facts,
    node_faults,
    run_preflight,
    store_faults,
    versions,
)

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
    assert ready["ok"], ready["missing"]
    assert ready["seconds"] < 60  # a few on a machine that does nothing else
    assert any(line.startswith("versions  ok: python 3.") for line in lines)
    assert any(re.match(r"first     ok: [\d.]+ s of work for a micro-batch of 4: a clip takes", line) for line in lines)
    assert any(
        re.match(r"node      .*: free: memory \d+ MiB, .*disk \d+ MiB; torch sees 0 GPU", line) for line in lines
    )
    short = run_preflight(tiny_config("train.workers=4", "train.num_cpus=4"), lines.append)
    assert not short["ok"]
    assert short["missing"][0].startswith("train: 2 of 4 student processes fit (4 CPU, 0 GPU each")
    assert any("teacher: 0 of 1" in text for text in short["missing"])  # nothing is left for the others
    broken = run_preflight(tiny_config("teacher.weights=/nowhere.safetensors"), lines.append)
    assert "teacher.weights" in broken["missing"][0]


def test_what_a_node_says_of_itself(tiny_config: Callable[..., RunConfig]) -> None:
    facts, here = node_facts(), versions()
    assert facts["disk_mb"] > 0
    assert facts["memory_mb"] > 0
    now = facts["time"]

    def faults(changes: dict[str, object], gpus: float = 0.0) -> list[str]:
        return node_faults({**facts, "disk_mb": 9000, **changes}, here, gpus=gpus, asked=now - 1, now=now + 1)

    assert faults({}) == []
    assert set(here) == {"python", "echodfkd", "ray", "torch", "numpy", "pyarrow"}
    for name in here:
        assert faults({name: "1.0"}) == [f"has {name} 1.0, the driver {here[name]}"]
    assert faults({"cuda": 1}, gpus=2) == ["has 2 GPU by Ray's count, but torch sees 1 there"]
    assert faults({"disk_mb": 5}) == ["has 5 MiB of disk left for Ray's temporary folder, 2048 are needed"]
    for off in (-100.0, 100.0):
        (sentence,) = faults({"time": now + off})
        assert "has a clock that is 99 s off the driver's" in sentence
    assert faults({"time": now + MAX_CLOCK_S}) == []
    config = tiny_config("window.size=512", "window.frames=64", "train.global_batch=4")
    (sentence,) = store_faults(config, {"object_store_memory": 100 << 20})
    assert sentence.startswith("has an object store of 100 MiB; a block of 4 clips takes 128 MiB")
    assert store_faults(config, {"object_store_memory": 600 << 20}) == []


def test_what_the_autoscaler_is_asked_for(tiny_config: Callable[..., RunConfig]) -> None:
    bundles, labels = bundles_of(roles(tiny_config(*GPU)))
    assert len(bundles) == len(labels) == 6
    assert bundles.count({"CPU": 1.0, "GPU": 1.0}) == 4
    assert labels[0] == {"pool": "student"}
    assert labels[bundles.index({"CPU": 0.5})] == {}
    shared, _ = bundles_of(roles(tiny_config()))  # evaluators that reserve nothing ask for nothing
    assert shared == [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 0.5}]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_cluster_that_does_not_grow_is_one_sentence(tiny_config: Callable[..., RunConfig]) -> None:
    lines: list[str] = []
    wide = ["train.workers=4", "train.num_cpus=4"]
    with (
        pytest.raises(RunError, match=r"^the cluster cannot hold this run: train: 2 of 4"),
        nodes_for(tiny_config(*wide), lines.append),
    ):
        pytest.fail("it ran")
    assert not lines
    words = r"has not grown enough within ray.wait_for_nodes_s \(3 s\): train: 2 of 4"
    with (
        pytest.raises(RunError, match=words),
        nodes_for(tiny_config(*wide, "ray.wait_for_nodes_s=3"), lines.append),
    ):
        pytest.fail("it ran")
    assert lines[0].startswith("waiting up to 3 s for nodes: train: 2 of 4 student processes fit")
    with nodes_for(tiny_config(), lines.append):
        assert len(lines) == 1


def test_runs_come_in_one_after_the_other_and_each_whole(tiny_config: Callable[..., RunConfig]) -> None:
    """A cluster of 4 CPUs, runs of 2.5 and 1.25: the students of two would fit, their teachers would not."""
    large = roles(tiny_config())
    small = roles(tiny_config("train.num_cpus=0.5", "teacher.num_cpus=0.25"))
    guests = {"j1": Guest("one", large), "j2": Guest("two", large), "j3": Guest("three", small)}
    assert admit(guests, "j2", [Node("head", 4, 0)]) == ["run one waits before this one"]
    assert admit(guests, "j1", [Node("head", 4, 0)]) == []
    assert admit(guests, "j1", [Node("head", 0, 0)]) == []  # it is in and stays so
    (missing,) = admit(guests, "j2", [Node("head", 4, 0)])  # nothing is taken yet, and all of run one is kept free
    assert missing.startswith("teacher: 0 of 1 teacher processes fit (1 CPU, 0 GPU each; head: 0.5 CPU")
    guests["j1"].missing = []
    assert admit(guests, "j2", [Node("head", 1.5, 0)]) == [missing]
    assert admit(guests, "j3", [Node("head", 1.5, 0)]) == ["run two waits before this one"]  # none overtakes
    guests["j1"].missing = [role for role in large if role.name == "teacher"]  # its machine was lost
    assert admit(guests, "j2", [Node("head", 2.5, 0)]) != []
    assert admit(guests, "j2", [Node("head", 3.5, 0)]) == []
    assert admit(guests, "j3", [Node("head", 1.25, 0), Node("other", 3, 0)]) != []  # kept for one and two
    guests["j1"].missing = guests["j2"].missing = []
    assert admit(guests, "j3", [Node("head", 1.25, 0)]) == []


def test_the_list_of_runs_names_holders_and_forgets_the_dead(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {
        "01": "python jobs/distill.py",
        "02": "python jobs/distill.py",
        "03": "python -m x s3://key:pass@host/b",
    }
    dead, ended = set(), []
    alive = [
        ("01", "TeacherActor", False),
        ("03", "Trainer", False),
        ("04", "Serve", True),
        ("05", "JobSupervisor", False),
    ]
    state = SimpleNamespace(
        jobs=lambda: [{"JobID": job, "IsDead": job in dead, "Entrypoint": text} for job, text in commands.items()],
        actors=lambda *unused: {
            str(number): {"JobID": job, "ActorClassName": name, "IsDetached": detached}
            for number, (job, name, detached) in enumerate(alive)
        },
    )
    monkeypatch.setattr(rooms, "ray_state", state)
    monkeypatch.setattr(rooms.ray.actor, "exit_actor", lambda: ended.append(True))
    monkeypatch.setattr(rooms, "free_nodes", lambda: [Node("head", 3, 0)])
    wanted, runs = roles(tiny_config()), rooms.Rooms()
    assert runs.ask("01", "one", wanted) == Answer()
    answer = runs.ask("02", "two", wanted)
    assert answer.holders[0] == "run one (job 01)"
    assert answer.holders[1].startswith("job 03 (python -m x s3://")
    assert "pass" not in answer.text
    assert len(answer.holders) == 2
    assert answer.text.startswith("train: 0 of 1 student processes fit (1 CPU, 0 GPU each; head: 0.5 CPU")
    assert runs.tell("01", "one", []) == answer.holders[1:]
    monkeypatch.setattr(rooms, "free_nodes", lambda: [Node("head", 0.5, 0)])  # run one has taken its part
    assert runs.ask("02", "two", wanted).missing
    dead.add("01")
    monkeypatch.setattr(rooms, "free_nodes", lambda: [Node("head", 3, 0)])
    assert runs.ask("02", "two", wanted) == Answer()
    assert not ended
    runs.leave("02")
    assert ended == [True]


def test_a_wait_for_room_ends_and_names_the_holder(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, lines, left = 0.0, [], []

    def rest(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(rooms, "time", SimpleNamespace(monotonic=lambda: now, sleep=rest))
    answers = [Answer(["train: 0 of 1 student processes fit"], ["run other (job 02)"])] * 40
    monkeypatch.setattr(Room, "ask", lambda self: answers.pop() if answers else Answer())
    monkeypatch.setattr(Room, "leave", lambda self: left.append(self))
    monkeypatch.setattr(rooms.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01"))
    with room_for(tiny_config("ray.address=head:6379"), lines.append) as room:
        assert room.is_shared
        assert not left
    held = "train: 0 of 1 student processes fit; held by run other (job 02)"
    assert lines == [
        f"waiting for room, 0 of up to 3600 s: {held}",
        f"waiting for room, 60 of up to 3600 s: {held}",
        "there is room after 80 s",
    ]
    answers += [Answer(["no"], ["run other (job 02)"])] * 40
    words = (
        r"has no room for this run, and none came within ray.wait_for_room_s \(7 s\): no; held by run other \(job 02"
    )
    with (
        pytest.raises(RunError, match=words),
        room_for(tiny_config("ray.address=head:6379", "ray.wait_for_room_s=7"), lines.append),
    ):
        pytest.fail("it ran")
    assert len(left) == 2
    with room_for(tiny_config("ray.address=local"), lines.append) as room:  # nobody else is on it
        assert room.tell([]) == []


def test_a_sentence_lists_few_nodes(tiny_config: Callable[..., RunConfig]) -> None:
    nodes = [Node(f"n{number}", 0.1, 0) for number in range(500)]
    sentences = place(roles(tiny_config()), nodes)
    assert all(len(sentence) < 300 for sentence in sentences)
    assert "; 496 nodes more)" in sentences[0]
