"""The progress line: rates, queue and ETA out of the progress actor's numbers."""

import asyncio
import contextlib
import dataclasses
import json
import pickle
import re
from collections import deque
from collections.abc import Callable

import pytest
import ray

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.runtime import living
from echodfkd.runtime.cluster.host_memory import memory_mb
from echodfkd.runtime.cluster.resources import Node, Role, RoleNow, missing_roles
from echodfkd.runtime.living import Living
from echodfkd.runtime.progress import SEEN_S, ProgressActor, ProgressLine, spoken, start_progress_actor
from echodfkd.runtime.stream.pool_worker import CarriedPool
from echodfkd.runtime.stream.teacher_pool import teaching_stages
from echodfkd.storage.files import RunStorage


class FakeRoom:
    """A cluster with one other run; remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, int]] = []

    def tell(self, missing: list[Role]) -> list[str]:
        self.told.append({role.name: role.count for role in missing})
        return ["run other (job 02)"]


def line_of(config: RunConfig) -> ProgressLine:
    """The line of a run that has started 20 s ago, without its thread."""
    line = ProgressLine.__new__(ProgressLine)
    line.config, line.started, line._samples, line._newest = config, clock.now() - 20, deque(), (0, clock.now() - 20)
    line._room, line._living, line._missing, line.is_training = FakeRoom(), Living(config), {}, True
    line._kept = 0
    return line


@pytest.fixture
def progress(tiny_config: Callable[..., RunConfig]) -> ProgressLine:
    return line_of(tiny_config("train.steps=100"))


def text_of(line: ProgressLine, values: dict[str, object], roles: dict[str, RoleNow] | None = None) -> str:
    return line.line(line.snapshot(values, roles or {}, 100.0))


def values_at(step: int, first_time: float, **more: object) -> dict[str, object]:
    start = {"first_step": 1, "first_step_time": first_time, "losses": {"a": 0.25}, "wait_share": 0.05}
    return {"step": step, "clips": 4 * step, **start, **more}


def test_before_the_first_step_it_says_what_it_waits_for(progress: ProgressLine) -> None:
    line = text_of(progress, {})
    assert re.fullmatch(r"\d\d:\d\d:\d\d \| 0:20 \| starting: actors load, .*", line)


def test_rate_queue_and_eta_follow_from_the_counts(progress: ProgressLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 updates of 4 clips in 8 s after the first: 2 clips/s, 95 more updates in 190 s; 36 taught less 20 trained."""
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    values = values_at(5, now - 8, taught=36, scored="step 3")
    assert text_of(progress, values).endswith(
        "| update 5/100 | 2 clips/s | loss a 0.2500 | queue 16 clips | students wait 5 % | scored step 3 | ETA 3:10"
    )
    assert progress.pace(values_at(99, now - 8, taught=10_000)).queue == 4  # never more than the plan has left
    assert progress.pace(values_at(5, now - 8, taught=3)).queue == 0


def test_the_rate_is_that_of_the_last_minute_and_never_falls_to_nothing(
    progress: ProgressLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update every 40 s, looked at every 5 s: a rate between two updates is no 0."""
    start, rates = clock.now(), []
    for second in range(0, 400, 5):
        monkeypatch.setattr(clock, "now", lambda now=start + second: now)
        rates.append(progress.pace(values_at(1 + second // 40, start)).clips_s)
    assert rates[:8] == [None] * 8
    assert all(0.03 < rate < 0.2 for rate in rates[8:])  # 0.1 clips/s
    first = values_at(1, start)
    monkeypatch.setattr(clock, "now", lambda: start)
    progress._samples.clear()
    assert text_of(progress, first).endswith("| ETA after the next update")
    done = values_at(100, start, backlog=3)
    assert text_of(progress, done).endswith("| all 100 updates are done, 3 scoring tasks left")


def test_the_count_of_taught_clips_begins_anew_with_the_workers() -> None:
    async def use() -> list[object]:
        actor = ProgressActor()
        await actor.add_work("teacher", "a", 4)
        await actor.add_work("teacher", "b", 2)
        before = actor.values["taught"]
        await actor.update({"pid_1": 5})
        await actor.update({"started": 1.0})
        return [before, (await actor.read())["taught"]]

    assert asyncio.run(use()) == [6, 0]


def test_actors_at_work_are_those_that_have_finished_a_block_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that stands still for an hour, for the loss of its students, forgets none of them."""
    now = 1000.0
    monkeypatch.setattr(clock, "now", lambda: now)

    async def use() -> list[int]:
        nonlocal now
        actor = ProgressActor({"teacher": 7})
        found = [await actor.actors_at_work("teacher"), await actor.actors_at_work("generator.video")]
        for name, stage in (("a", "teacher"), ("b", "teacher"), ("a", "teacher"), ("c", "generator.video")):
            await actor.add_work(stage, name, 4)
        found.append(await actor.actors_at_work("teacher"))
        now += SEEN_S - 1
        await actor.add_work("teacher", "d", 4)
        now += 3600
        found.append(await actor.actors_at_work("teacher"))
        await actor.add_work("teacher", "d", 4)
        return [*found, await actor.actors_at_work("teacher"), await actor.actors_at_work("generator.video")]

    assert asyncio.run(use()) == [7, 0, 2, 3, 1, 1]


def test_a_resumed_run_knows_the_size_of_its_pools(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("teacher.max_actors=4", "train.steps=100")
    storage, line = RunStorage(config.root), line_of(config)
    teacher, others = ("MapWorker(MapBatches(TeacherActor))", "n1"), [("RayTrainWorker", "n1"), ("Evaluator", "n1")]
    assert living.kept_pools(storage) == {}
    for published, count, kept in ((0, 3, {}), (3, 3, {"teacher": 3}), (3, 1, {"teacher": 3}), (6, 2, {"teacher": 2})):
        alive = {"ALIVE": [teacher] * count + others}
        monkeypatch.setattr(living, "actors_of_job", lambda state, alive=alive: alive.get(state, []))
        line._living.look({})
        line._keep_pools(published)
        assert living.kept_pools(storage) == kept
    for text in (b"[3]", b'{"teacher": "many", "generator": -2}', b"\xff"):
        storage.write(living.KEPT, text)
        assert living.kept_pools(storage) == {}


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_pool_starts_with_the_actors_that_were_at_work(tiny_config: Callable[..., RunConfig]) -> None:
    """In whichever process asks, and never outside of the pool's bounds."""
    config = tiny_config("teacher.min_actors=2", "teacher.max_actors=4")
    actor = start_progress_actor()
    (stage,) = teaching_stages(config, "unused", actor)
    pool = CarriedPool(stage, actor)
    assert (pool.min_size, pool.max_size, pool.initial_size) == (2, 4, 2)
    for number, wanted in ((1, 2), (3, 3), (9, 4)):
        ray.get([actor.add_work.remote("teacher", f"t{k}", 1) for k in range(number)])
        copy = pickle.loads(pickle.dumps(pool))
        assert (pool.initial_size, copy.initial_size) == (wanted, wanted)
    assert CarriedPool(stage, None).initial_size == 2
    ray.kill(actor)
    with contextlib.suppress(ray.exceptions.RayActorError):
        while True:  # until it is dead
            ray.get(actor.read.remote())
    assert pool.initial_size == 2


def test_many_students_share_a_line(tiny_config: Callable[..., RunConfig]) -> None:
    names = [f"c{number}" for number in range(6)]
    progress = line_of(tiny_config(*(f"students.{name}.blocks=1" for name in names)))  # beside the tiny run's own
    losses = {name: 0.5 - number / 10 for number, name in enumerate(names[:5])}
    values = {"step": 1, "first_step": 1, "first_step_time": clock.now(), "losses": losses}
    line = text_of(progress, values)
    assert "loss c4 0.1000 .. c0 0.5000 (2 of 7 students have stopped)" in line


ENSEMBLE = [
    "teacher.kind=ensemble", "teacher.members.one.kind=embedded", "teacher.members.two.kind=embedded",
    "teacher.pools=each", "teacher.members.one.min_actors=2", "teacher.members.one.max_actors=4",
]  # fmt: skip


def test_the_processes_of_a_run_are_those_that_ray_says_live(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two members in pools of their own; one actor loads on a node, one waits for a machine; others are not ours."""
    one, two = "MapWorker(MapBatches(MemberActor.one))", "MapWorker(MapBatches(MemberActor.two))"
    actors = {
        "ALIVE": [(one, "n1"), (two, "n1"), (two, "n2"), ("RayTrainWorker", "n1"), ("SplitCoordinator", "n1")],
        "PENDING_CREATION": [(one, "n2"), (one, ""), ("MapWorker(MapBatches(FusingActor))", "")],
        "RESTARTING": [("Evaluator", "")],
    }
    monkeypatch.setattr(living, "actors_of_job", lambda state: actors.get(state, []))
    found = Living(tiny_config(*ENSEMBLE)).look({"teacher.two_at_work": 1.5})
    assert {name: (now.living, now.wanted, now.nodes) for name, now in found.items()} == {
        "student": (1, 1, 1), "teacher.one": (1, 3, 1), "teacher.two": (2, 2, 2), "teacher": (0, 1, 0),
        "evaluator": (0, 1, 0),
    }  # fmt: skip
    assert found["teacher.one"].text == "teacher.one 1 of 2..4 (3 wanted)"
    assert found["teacher.two"].text == "teacher.two 2 of 1 (75 % at work)"
    assert dataclasses.replace(found["teacher.two"], living=0).text == "teacher.two 0 of 1"  # its pool has ended
    assert {name for name, now in found.items() if not now.is_news} == {"student"}
    assert {role.name: role.count for role in missing_roles(found)} == {"teacher": 1, "evaluator": 1}


def test_a_share_is_over_the_actors_that_lived_in_the_last_minute(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four at work all the time, in six segments whose pools have other actors each: all of them are at work."""
    now, count = 1000.0, 4
    monkeypatch.setattr(clock, "now", lambda: now)
    teacher = ("MapWorker(MapBatches(TeacherActor))", "n1")
    monkeypatch.setattr(living, "actors_of_job", lambda state: [teacher] * count if state == "ALIVE" else [])
    seen = Living(tiny_config("teacher.max_actors=4", "data.source_tasks=2"))
    for _ in range(6):
        assert seen.look({"teacher_at_work": 4.0})["teacher"].busy_share == 1
        now += 20
    assert seen.shares({"source_at_work": 0.5, "students_at_work": 1.0}) == {"source": 0.25}
    now, count = now + 100, 1
    assert seen.look({"teacher_at_work": 0.5})["teacher"].busy_share == 0.5  # the earlier looks are forgotten
    count = 3
    assert seen.look({"teacher_at_work": 1.0})["teacher"].busy_share == 0.5  # one or three: two on average


def test_the_line_says_what_the_run_waits_for_and_who_holds_it(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("train.steps=100", "data.segment_tasks=10", "teacher.node_label=role=teacher")
    line, now = line_of(config), clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    nodes = [Node("head", 1, 0, {})]
    monkeypatch.setattr("echodfkd.runtime.progress.free_nodes", lambda: nodes)
    teacher = Role("teacher", 1, 1.0, 0.0, {"role": "teacher"}, "teacher")
    gone = {"teacher": RoleNow(teacher, 4, living=0, coming=4, placed=0, nodes=0)}
    values = values_at(5, now - 8, starts=3)
    first = text_of(line, values, gone)
    assert "| update 5/100, students started 3 times | segment 1 of 12 |" in first
    assert "| students wait 5 % | teacher 0 of 1..4 (4 wanted) | ETA" in first
    assert "waits" not in first  # the next look may find it
    now += 65
    second = text_of(line, values, gone)
    assert "| no update for 1:05 |" in second
    assert second.endswith(
        "| waits: teacher: 0 of 1 teacher processes fit (1 CPU, 0 GPU each on a node labelled role=teacher;"
        " no node has that label); held by run other (job 02)"
    )
    there = {"teacher": RoleNow(teacher, 4, living=1, coming=0, placed=1, nodes=1)}
    assert "waits" not in text_of(line, values, there)
    nodes[0].labels["role"] = "teacher"
    text_of(line, values, gone)
    assert "waits" not in text_of(line, values, gone)  # there is room: it loads
    line.is_training = False
    text_of(line, values, gone)
    kept = line._room.told  # what it lacked at the look before is still to be kept free
    assert kept == [{"teacher": 1}, {"teacher": 1}, {"teacher": 1}, {"teacher": 1}, {"teacher": 1}, {"teacher": 1}]
    text_of(line, values, gone)
    assert kept[-1] == {}


def test_lines_for_programs_hold_the_numbers(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config("train.steps=100", "ray.json_lines=true")
    line = line_of(config)
    found = json.loads(line.json(line.snapshot(values_at(5, clock.now() - 8, taught=36), {}, 100.0)))
    assert (found["step"], found["total"], found["queue"], found["losses"]) == (5, 100, 16, {"a": 0.25})
    assert found["clips_s"] == pytest.approx(2, rel=0.05)
    assert "| update 5/100 |" in found["message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["time"])
    lines: list[str] = []
    spoken(config, lines.append)('a "b"')
    assert json.loads(lines[0])["message"] == 'a "b"'
    assert spoken(tiny_config(), lines.append) == lines.append


def test_memory_counts_this_process() -> None:
    assert memory_mb() > 10
