"""The progress line: rates, queue and ETA out of the progress actor's numbers."""

import asyncio
import contextlib
import pickle
import re
from collections import deque
from collections.abc import Callable

import pytest
import ray

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.runtime.progress import SEEN_S, ProgressActor, ProgressLine, memory_mb, start_progress_actor
from echodfkd.runtime.stream.pool_worker import CarriedPool
from echodfkd.runtime.stream.teacher_pool import teaching_stages


@pytest.fixture
def progress(tiny_config: Callable[..., RunConfig]) -> ProgressLine:
    line = ProgressLine.__new__(ProgressLine)  # without its thread
    line.config = tiny_config("train.steps=100")
    line.started, line._samples = clock.now() - 20, deque()
    return line


def values_at(step: int, first_time: float, **more: object) -> dict[str, object]:
    start = {"first_step": 1, "first_step_time": first_time, "losses": {"a": 0.25}, "wait_share": 0.05}
    return {"step": step, "clips": 4 * step, **start, **more}


def test_before_the_first_step_it_says_what_it_waits_for(progress: ProgressLine) -> None:
    line = progress.line({}, progress.pace({}))
    assert re.fullmatch(r"\d\d:\d\d:\d\d \| 0:20 \| starting: actors load, .*", line)


def test_rate_queue_and_eta_follow_from_the_counts(progress: ProgressLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 updates of 4 clips in 8 s after the first: 2 clips/s, 95 more updates in 190 s; 36 taught less 20 trained."""
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    values = values_at(5, now - 8, taught=36, scored="step 3")
    assert progress.line(values, progress.pace(values)).endswith(
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
    assert progress.line(first, progress.pace(first)).endswith("| ETA after the next update")
    done = values_at(100, start, backlog=3)
    assert progress.line(done, progress.pace(done)).endswith("| all 100 updates are done, 3 scoring tasks left")


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
    now = 1000.0
    monkeypatch.setattr(clock, "now", lambda: now)

    async def use() -> list[int]:
        nonlocal now
        actor = ProgressActor()
        found = [await actor.actors_at_work("teacher")]
        for name, stage in (("a", "teacher"), ("b", "teacher"), ("a", "teacher"), ("c", "generator.video")):
            await actor.add_work(stage, name, 4)
        found.append(await actor.actors_at_work("teacher"))
        now += SEEN_S - 1
        await actor.add_work("teacher", "d", 4)
        found.append(await actor.actors_at_work("teacher"))
        now += 2
        return [*found, await actor.actors_at_work("teacher"), await actor.actors_at_work("generator.video")]

    assert asyncio.run(use()) == [0, 2, 3, 1, 0]


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
    progress = ProgressLine.__new__(ProgressLine)
    progress.config = tiny_config(*(f"students.{name}.blocks=1" for name in names))  # beside the tiny run's own
    progress.started, progress._samples = clock.now(), deque()
    losses = {name: 0.5 - number / 10 for number, name in enumerate(names[:5])}
    values = {"step": 1, "first_step": 1, "first_step_time": clock.now(), "losses": losses}
    line = progress.line(values, progress.pace(values))
    assert "loss c4 0.1000 .. c0 0.5000 (2 of 7 students have stopped)" in line


def test_memory_counts_this_process() -> None:
    assert memory_mb() > 10
