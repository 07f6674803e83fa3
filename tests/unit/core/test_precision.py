"""The choice of a precision, by an injected clock."""

from __future__ import annotations

import pytest

from echodfkd.core.precision import LEAST_ROUNDS, LONGEST_S, MARGIN, MOST_S, faster, in_words, seconds_in_turn


class Clock:
    """Moves on only by work."""

    def __init__(self) -> None:
        self.time = 0.0
        self.order: list[str] = []

    def work(self, name: str, *seconds: float):
        """A piece of work that takes these seconds in turn, then the last ones."""
        left = list(seconds)

        def run() -> None:
            self.order.append(name)
            self.time += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_the_least_of_rounds_in_turn_counts_and_the_first_round_does_not():
    clock = Clock()
    works = {"fp32": clock.work("fp32", 0.125, 5.0, 3.0), "bf16": clock.work("bf16", 9.0, 2.0, 7.0)}
    assert seconds_in_turn(works, now=lambda: clock.time) == {"fp32": 3.0, "bf16": 2.0}
    assert clock.order == ["fp32", "bf16"] * (1 + LEAST_ROUNDS)


def test_short_work_is_timed_until_the_time_is_up_and_very_long_work_once():
    for seconds, total in ((0.25, MOST_S + 0.5), (LONGEST_S, 2 * LONGEST_S)):
        clock = Clock()
        works = {"fp32": clock.work("fp32", seconds), "bf16": clock.work("bf16", seconds)}
        assert seconds_in_turn(works, now=lambda clock=clock: clock.time) == {"fp32": seconds, "bf16": seconds}
        assert clock.time == pytest.approx(total)


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(1.0, 2.0, "fp32"), (2.0, 1.0, "bf16"), (1.0, 1.0, "fp32"), (1.02, 1.0, "fp32"), (1.04, 1.0, "bf16")],
)
def test_the_faster_one_is_taken_and_never_one_that_is_slower_by_more_than_the_margin(fp32, bf16, chosen):
    seconds = {"fp32": fp32, "bf16": bf16}
    assert faster(seconds) == chosen
    assert seconds[faster(seconds)] <= (1 + MARGIN) * min(seconds.values())


def test_the_choice_in_words():
    assert in_words({"fp32": 1.0, "bf16": 1.921}) == "fp32 (bf16 takes 1.92 of its time)"
    assert in_words({"fp32": 3.0, "bf16": 1.5}) == "bf16 (fp32 takes 2.00 of its time)"
