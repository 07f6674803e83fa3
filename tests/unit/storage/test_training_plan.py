"""Consumed slots as intervals, against a set; the learning rate, against its closed form."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echodfkd.core.errors import InputError
from echodfkd.storage.intervals import Intervals
from echodfkd.training.schedule import learning_rate

slots = st.sets(st.integers(0, 60), max_size=40)


@given(slots, slots, st.integers(0, 70))
def test_intervals_behave_as_a_set(left, right, total):
    ours = Intervals.of(left)
    assert list(ours) == sorted(left)
    assert len(ours) == len(left)
    assert [slot for slot in range(-1, 62) if slot in ours] == sorted(left)
    assert set(ours.union(Intervals.of(right))) == left | right
    assert ours.add(right) == Intervals.of(left | right)
    assert set(ours.complement(total)) == set(range(total)) - left
    assert ours.is_prefix == (left == set(range(len(left))))
    assert Intervals.from_json(ours.to_json()) == ours


@given(slots)
def test_intervals_are_as_few_as_possible(left):
    runs = sum(slot - 1 not in left for slot in left)
    assert len(Intervals.of(left).ranges) == runs


def test_a_stream_in_order_needs_one_interval():
    assert Intervals.of(range(1_000_000)).to_json() == "[[0, 1000000]]"


@pytest.mark.parametrize("text", ["{}x", "[[0]]", "[[0, 5], [3, 9]]", "[[4, 2]]", '[["a", "b"]]', "[[0, 1.5]]", "7"])
def test_damaged_intervals_are_refused(text):
    with pytest.raises(InputError, match=r"consumed.json does not hold intervals"):
        Intervals.from_json(text)


def rate(step, **changes):
    options = {
        "schedule": "cosine",
        "base": 2.0,
        "warmup_steps": 4,
        "total_steps": 21,
        "final_fraction": 0.1,
        **changes,
    }
    return learning_rate(step, **options)


def test_warm_up_is_linear_and_reaches_the_base():
    assert [rate(step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]


def test_decay_is_half_a_cosine_to_the_final_fraction():
    assert rate(4) == 2.0
    assert rate(12) == pytest.approx(2.0 * 0.55)  # half-way: the mean of 1 and 0.1
    assert rate(8) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert rate(20) == pytest.approx(0.2)


def test_decay_may_be_a_line_or_none_at_all():
    assert [rate(step, schedule="constant") for step in (0, 3, 4, 20)] == [0.5, 2.0, 2.0, 2.0]
    line = [rate(step, schedule="linear") for step in range(4, 21)]
    assert line == pytest.approx([2.0 + (0.2 - 2.0) * n / 16 for n in range(17)])
    assert rate(2, schedule="linear") == 1.5


def test_short_runs_have_a_rate_at_every_step():
    assert rate(0, total_steps=1, warmup_steps=0) == pytest.approx(0.2)
    assert [rate(step, total_steps=2) for step in range(2)] == [0.5, 1.0]
    assert rate(4, total_steps=5) == pytest.approx(0.2)
