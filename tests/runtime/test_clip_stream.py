"""The stream on a real local Ray: plan order, one block per micro-batch, bounded lag, resume by what is consumed."""

import time
from collections.abc import Callable, Iterator

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch
from echodfkd.runtime.stream.builders import load_teacher
from echodfkd.runtime.stream.clip_stream import build_stream
from echodfkd.runtime.stream.plan import blocks_of, remaining_slots
from echodfkd.storage.checkpoints import publish
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def batches(config: RunConfig) -> Iterator[DistillationBatch]:
    stream = build_stream(config, 0, load_teacher(config, "cpu").teacher_id)
    shard = stream.streaming_split(1, equal=True)[0]
    for columns in shard.iter_batches(batch_size=config.micro_batch, batch_format="numpy", prefetch_batches=1):
        yield DistillationBatch.from_columns(columns)


def test_blocks_arrive_in_plan_order_and_the_stream_waits_for_a_slow_student(
    tiny_config: Callable[..., RunConfig],
) -> None:
    """A student of four batches per second against a teacher several times as fast."""
    config = tiny_config(
        "window.frames=16",
        "window.size=64",
        "train.steps=30",
        "data.ahead_mb=1",
        "teacher.max_actors=2",
        "teacher.min_actors=2",
    )
    arrived, taught = [], []
    for number, batch in enumerate(batches(config)):
        arrived.append(time.time())
        assert batch.slot.tolist() == list(range(4 * number, 4 * number + 4))
        assert batch.index.tolist() == batch.slot.tolist()
        assert batch.video.shape == (4, 16, 64, 64)
        assert batch.teacher_prob.shape == (4, 16, 1, 64, 64)
        taught += [(span.end, span.clips) for span in batch.spans if span.stage == "teacher"]
        time.sleep(0.25)
    assert len(arrived) == config.train.steps
    assert sum(clips for _, clips in taught) == config.plan_slots
    ahead = max(sum(n for end, n in taught if end <= now) - 4 * number for number, now in enumerate(arrived))
    assert 0 < ahead <= config.taught_ahead_bound < config.plan_slots // 2


def test_what_a_checkpoint_has_consumed_is_not_streamed_again(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config("train.workers=2")
    storage = RunStorage(config.root)
    consumed = Intervals.of([0, 1, 2, 3, 6, 7])  # an unordered run leaves gaps
    publish(storage, step=1, students={}, consumed=consumed, ledger={}, quarantine={}, meta={})
    blocks = list(blocks_of(config, remaining_slots(config)))
    assert blocks == [[4, 5], *([slot, slot + 1] for slot in range(8, 24, 2))]
    assert [batch.slot.tolist() for batch in batches(config)] == blocks
