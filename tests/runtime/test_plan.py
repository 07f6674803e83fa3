"""The stream's plan is made as it is used: no more tasks than sources soon need, whatever the length of the run."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import ray
from ray.data import ReadTask
from ray.data._internal.execution.bundle_queue import ReorderingBundleQueue
from ray.data._internal.execution.interfaces import RefBundle
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.data._internal.execution.operators.task_pool_map_operator import TaskPoolMapOperator
from ray.data.block import BlockStats
from ray.data.context import DataContext

from echodfkd.config.run import RunConfig
from echodfkd.runtime.stream import plan
from echodfkd.runtime.stream.plan import ClipDatasource, ComingTasks, DrawnSlots, OpenPlan, first_pass, remaining_slots
from echodfkd.storage.checkpoints import publish
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals

STEERED = ["source.steering.strata={ef_percent: [50]}", "train.checkpoint_every=2", "source.steering.every=2"]


class Store:
    """Keeps the read tasks that are put, in the place of Ray's object store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slots: list[list[int]] = []
        monkeypatch.setattr(plan.ray, "put", self.put)

    def put(self, task: object) -> ray.ObjectRef:
        if isinstance(task, ReadTask):
            self.slots.append(task._read_fn.args[1])
            assert len(ray.cloudpickle.dumps(task)) < 1024
        return ray.ObjectRef.from_random()


class Input:
    """Ray Data's own input operator, opened by `OpenPlan`, and the queue of a source that takes a task at a time."""

    def __init__(self, config: RunConfig, number: int = 0) -> None:
        self.operator = InputDataBuffer(DataContext.get_current(), input_data=[])
        self.queue: list[object] = []
        state = SimpleNamespace(output_queue=self.queue)
        self.executor = SimpleNamespace(_topology={self.operator: state})
        OpenPlan(config, number).before_execution_starts(self.executor)

    def step(self) -> None:
        """As in each step of Ray Data's scheduler: all that may be taken is."""
        while self.operator.has_next():
            self.queue.append(self.operator._get_next_inner())


def ahead(config: RunConfig) -> int:
    return 2 * config.data.source_tasks + 8


@pytest.mark.parametrize("clips", [10**6, 10**9])
def test_a_plan_of_any_length_makes_as_many_tasks_as_soon_run(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, clips: int
) -> None:
    store = Store(monkeypatch)
    config = tiny_config("train.global_batch=16", f"train.steps={clips // 16}")
    assert len(ClipDatasource(config).get_read_tasks(1)) == 1
    taken = Input(config)
    taken.step()
    assert len(store.slots) == len(taken.queue) == ahead(config)
    for _ in range(100):
        taken.queue.pop(0)
        taken.step()
    assert len(taken.queue) == ahead(config)
    assert store.slots == [list(range(first, first + 16)) for first in range(0, 16 * (100 + ahead(config)), 16)]
    assert not taken.operator.has_completed()
    assert taken.operator.num_outputs_total() == min(50_000, clips // 16)
    assert config.num_passes == -(-clips // 16 // 50_000)


def test_the_rest_of_a_plan_is_given_once_and_then_the_input_is_complete(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = Store(monkeypatch), tiny_config("train.workers=2")
    publish(RunStorage(config.root), step=1, students={}, consumed=Intervals.of([0, 1, 2, 3, 6, 7]), ledger={},
            quarantine={}, meta={})  # fmt: skip
    assert list(remaining_slots(config)) == [4, 5, *range(8, 24)]
    taken = Input(config)
    taken.step()
    assert store.slots == [[4, 5], *([slot, slot + 1] for slot in range(8, 24, 2))]
    assert taken.operator.has_completed()
    assert ComingTasks(config, Intervals(), lambda: 0).is_over


def test_passes_share_the_plan_and_the_first_holds_the_first_slot_left(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = Store(monkeypatch), tiny_config("train.steps=25", "data.segment_tasks=1", "data.order=arrival")
    assert (config.num_passes, first_pass(config)) == (3, 0)
    commit = {"students": {}, "ledger": {}, "quarantine": {}, "meta": {}}
    publish(RunStorage(config.root), step=9, consumed=Intervals(((0, 33), (34, 37))), **commit)
    assert first_pass(config) == 0
    for number in range(3):
        Input(config, number).step()
    assert store.slots == [[33, 37, 38, 39], *(list(range(slot, slot + 4)) for slot in range(40, 100, 4))]
    publish(RunStorage(config.root), step=25, consumed=Intervals(((0, 100),)), **commit)
    assert first_pass(config) == 3


def test_a_queue_that_runs_empty_before_the_end_does_not_end_the_stream(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A steered run waits for the law of the next segment with nothing left to draw."""
    store, config = Store(monkeypatch), tiny_config(*STEERED, "train.steps=12")
    monkeypatch.setattr(plan, "LOOK_S", 0.0)
    taken = Input(config)
    taken.step()
    assert [slots[0] // 4 for slots in store.slots] == [0, 1, 2, 3]  # those of law 0, a step each
    taken.queue.clear()
    assert not taken.operator.has_next()
    assert not taken.operator.has_completed()
    for step, last in ((2, 8), (4, 8), (6, 12)):  # a law is made one checkpoint before its segment
        publish(
            RunStorage(config.root), step=step, students={}, consumed=Intervals(), ledger={}, quarantine={}, meta={}
        )
        taken.step()
        assert len(store.slots) == last
    assert taken.operator.has_completed()


def test_the_first_two_laws_of_short_segments_come_without_a_checkpoint(tiny_config: Callable[..., RunConfig]) -> None:
    may_draw = DrawnSlots(tiny_config(*STEERED, "source.steering.every=1", "train.steps=12"))
    assert [may_draw(4 * step) for step in range(6)] == [True] * 4 + [False] * 2
    assert DrawnSlots(tiny_config("train.steps=12"))(47)


def test_tasks_are_kept_while_their_blocks_are_on_their_way_and_no_longer(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a task that is kept Ray can make a lost block again."""
    Store(monkeypatch)
    config = tiny_config("train.steps=100000", "data.segment_tasks=20", "data.ahead_mb=1", "window.size=64")
    assert config.kept_tasks >= config.taught_ahead_bound // config.micro_batch
    taken = Input(config)
    for _ in range(config.kept_tasks):
        taken.step()
        taken.queue.clear()
    assert len(taken.operator._input_data._kept) == config.kept_tasks


def test_records_that_grow_with_the_run_are_emptied(tiny_config: Callable[..., RunConfig]) -> None:
    stage, queue = TaskPoolMapOperator.__new__(TaskPoolMapOperator), ReorderingBundleQueue()
    stage._output_queue = queue
    opened, executor = OpenPlan(tiny_config(), 0), SimpleNamespace(_topology=[SimpleNamespace(), stage])
    block = RefBundle((), owns_blocks=False, schema=None)
    for task in (1, 0, 3, 2, 4):  # they end in another order; the last one has not ended
        stage._output_blocks_stats = [BlockStats(1, 1, None)]
        queue.add(block, key=task)
        if task < 4:
            queue.finalize(key=task)
        opened.on_execution_step(executor)
    taken = 0
    while queue.has_next():
        queue.get_next()
        taken += 1
        opened.on_execution_step(executor)
    assert (taken, stage._output_blocks_stats, list(queue._inner), queue._finalized_keys) == (5, [], [4], set())
