"""Flat or not: the rule against made-up series, and the real training loop, sound and with a planted leak."""

import math
import mmap
import random

import pytest

from echodfkd.core.errors import RunError
from tests.soak import soak
from tests.soak.soak import SLACK, judge, soak_loop


def trend(values: list[float], name: str = "memory_mb driver") -> soak.Trend:
    return judge({name: values})[0]


def test_noise_and_warm_up_are_flat_and_a_slope_is_not() -> None:
    rng = random.Random(0)
    noise = [300 + rng.gauss(0, 1) for _ in range(90)]
    assert trend(noise).flat
    assert trend([200 + 100 * (1 - math.exp(-n / 8)) for n in range(90)]).flat
    assert trend([*noise[:70], 900.0, *noise[71:]]).flat  # one peak
    assert trend([300 - n for n in range(90)]).flat  # what shrinks does not grow
    leak = trend([value + 0.25 * n for n, value in enumerate(noise)])
    assert not leak.flat
    assert leak.last - leak.middle == pytest.approx(0.25 * 30, abs=1.0)


def test_the_limit_is_the_larger_of_slack_and_share() -> None:
    assert trend([100.0] * 9).limit == SLACK["memory_mb"]
    assert trend([1000.0] * 9).limit == pytest.approx(20.0)
    assert trend([6.0] * 9, "handles students").limit == SLACK["handles"]
    assert not trend([6.0] * 6 + [10.0] * 3, "handles students").flat


def test_too_few_samples_are_no_proof() -> None:
    with pytest.raises(RunError, match=r"threads students: 8 samples, need 9; let it run for longer"):
        trend([1.0] * 8, "threads students")


def test_the_training_loop_does_not_grow_with_its_steps() -> None:
    lines: list[str] = []
    found = soak_loop(600, lines.append, samples=45)
    assert found["holds"], lines
    assert (found["clips"], found["lost"], found["repeated"]) == (1200, 0, 0)
    assert [line.split()[0] for line in lines[1:]] == ["memory_mb", "handles", "threads"]
    assert all(line.endswith("flat") for line in lines[1:])


def test_a_planted_leak_of_memory_and_handles_is_seen() -> None:
    kept: list[object] = []
    lines: list[str] = []
    planted_mb = 1  # a step: a third of 300 steps is 2 % of 5 GB, far above what the tests before leave this process

    def leak(step: int) -> None:
        region = mmap.mmap(
            -1, planted_mb << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )  # malloc may give old memory
        region.write(b"x" * len(region))
        kept.append(region)
        if step % 10 == 0:
            kept.append(open("/dev/null"))

    found = soak_loop(300, lines.append, samples=45, disturb=leak)
    kept.clear()
    assert not found["holds"]
    assert [line.split()[-1] for line in lines[1:]] == ["GROWS", "GROWS", "flat"]
    rise = found["series"]["memory_mb"]["last"] - found["series"]["memory_mb"]["middle"]
    assert rise == pytest.approx(300 / 3 * planted_mb, rel=0.25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_steps_stay_flat() -> None:
    assert soak_loop(20_000, print)["holds"]
