"""Mixtures: exact proportions, arithmetic on indices, and what becomes of ids, cases and faults."""

from fractions import Fraction

import numpy as np
import pytest

from echodfkd.config.rules.source import exact_shares
from echodfkd.config.sections.source import MixturePart, SourceConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ClipError, ConfigError
from echodfkd.core.records import VideoClip
from echodfkd.sources.build import build_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.mixture import MixtureSource, Schedule, part_seed
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import LedgerBuffer
from tests.helpers.teachers import taught_batch

COUNTS = [
    {"a": 1},
    {"real": 7, "synthetic": 3},
    {"real": 1, "synthetic": 99},
    {"a": 3, "b": 2, "c": 2},
    {"a": 1, "b": 2, "c": 30, "d": 4, "e": 13},
]


class FakeSource:
    """Says which index it was asked for; clip 5 is at fault."""

    notes = ("half of it is torn",)

    def __init__(self, name: str, num_cases: int | None = None) -> None:
        self.name = name
        self.num_cases = num_cases

    def clip(self, index: int, kind: str = "i") -> VideoClip:
        if index == 5 and kind == "i":
            raise ClipError("torn")
        return VideoClip(
            clip_id=f"{self.name}-{kind}{index}",
            index=index,
            seed=0,
            epoch=0,
            window_start=0,
            video=np.zeros((2, 4, 4), np.uint8),
            fps=32.0,
            source=self.name,
            domain=f"domain of {self.name}",
        )

    def case(self, index: int) -> VideoClip:
        return self.clip(index, "case")


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_proportions_are_exact_over_every_period_and_close_over_every_stretch(counts: dict[str, int]) -> None:
    """Counted one by one: every window of a period's length is exact, wherever it starts. Shorter windows are within
    1 clip for two parts; for more parts within 1 from the start, and within 2 elsewhere (a difference of two starts).
    """
    schedule = Schedule(counts)
    period = sum(counts.values())
    order = [schedule.part(index)[0] for index in range(3 * period)]
    for name, count in counts.items():
        share = Fraction(count, period)
        given = np.cumsum([0] + [part == name for part in order])
        for start in range(2 * period + 1):
            assert given[start + period] - given[start] == count
        late = max(abs(int(given[n]) - n * share) for n in range(3 * period + 1))
        assert late < 1, name
        wide = max(
            abs(int(given[start + n] - given[start]) - n * share) for start in range(period) for n in range(period + 1)
        )
        assert wide <= (1 if len(counts) <= 2 else 2), name


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_each_part_sees_its_own_indices_once_and_in_order(counts: dict[str, int]) -> None:
    schedule = Schedule(counts)
    seen: dict[str, list[int]] = {name: [] for name in counts}
    for index in range(3 * schedule.period):
        name, number = schedule.part(index)
        seen[name].append(number)
        assert schedule.index(name, number) == index
    for name, count in counts.items():
        assert seen[name] == list(range(3 * count))
    assert schedule.part(10**15 * schedule.period) == (schedule.part(0)[0], 10**15 * counts[schedule.part(0)[0]])


def test_the_order_of_names_does_not_matter() -> None:
    one, other = Schedule({"a": 3, "b": 2, "c": 2}), Schedule({"c": 2, "b": 2, "a": 3})
    assert [one.part(i) for i in range(14)] == [other.part(i) for i in range(14)]


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ({"a": 0.7, "b": 0.3}, {"a": 7, "b": 3}),
        ({"a": 2, "b": 2}, {"a": 1, "b": 1}),
        ({"a": 1, "b": 0.25, "c": 0.75}, {"a": 4, "b": 1, "c": 3}),
        ({"a": 1e-3, "b": 1}, {"a": 1, "b": 1000}),
    ],
)
def test_weights_are_read_as_the_decimals_they_are_written_as(weights, counts) -> None:
    assert exact_shares(weights, "source.parts") == counts


def test_weights_that_never_come_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="come out in whole clips only every 1333333 clips, at most 10000"):
        exact_shares({"a": 0.333333, "b": 1}, "source.parts")
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=rf"source.parts.a.weight: got {bad:g}, must be above 0"):
            exact_shares({"a": bad}, "source.parts")


def test_clips_carry_the_mixtures_index_and_the_parts_name() -> None:
    mixture = MixtureSource({"real": FakeSource("recorded"), "made": FakeSource("phantom")}, {"real": 1, "made": 2})
    assert isinstance(mixture, ClipSource)
    clips = [mixture.clip(index) for index in range(7)]
    assert [clip.index for clip in clips] == list(range(7))
    assert len({clip.clip_id for clip in clips}) == 7
    for clip in clips:
        name, number = mixture.schedule.part(clip.index)
        own = {"real": "recorded", "made": "phantom"}[name]
        assert (clip.clip_id, clip.source, clip.domain) == (f"{name}-{own}-i{number}", name, f"domain of {own}")


def test_a_fault_is_named_after_its_part() -> None:
    mixture = MixtureSource({"real": FakeSource("recorded"), "made": FakeSource("phantom")}, {"real": 1, "made": 1})
    with pytest.raises(ClipError, match="torn") as caught:
        mixture.clip(mixture.schedule.index("real", 5))
    assert caught.value.clip_id == "real-recorded-i5"  # type: ignore[attr-defined]


def test_cases_come_from_all_parts_until_one_runs_out_or_from_one() -> None:
    parts = {"real": FakeSource("recorded", num_cases=4), "made": FakeSource("phantom")}
    counts = {"real": 1, "made": 2}
    mixture = MixtureSource(parts, counts)
    assert mixture.num_cases == mixture.schedule.index("real", 4)
    cases = [mixture.case(index) for index in range(mixture.num_cases)]
    assert [case.clip_id for case in cases if case.source == "real"] == [f"real-recorded-case{i}" for i in range(4)]
    one = MixtureSource(parts, counts, cases_from="real")
    assert one.num_cases == 4
    assert [one.case(i).clip_id for i in range(4)] == [f"real-recorded-case{i}" for i in range(4)]
    assert MixtureSource({"made": FakeSource("phantom")}, {"made": 1}).num_cases is None


def test_a_batch_says_where_its_clips_are_from() -> None:
    mixture = MixtureSource({"real": FakeSource("recorded"), "made": FakeSource("phantom")}, {"real": 1, "made": 3})
    batch = taught_batch([mixture.clip(i) for i in range(4)], range(4))
    assert sorted(batch.source) == ["made", "made", "made", "real"]
    assert {name.removeprefix("domain of ") for name in batch.domain} == {"phantom", "recorded"}


def test_the_ledger_shows_what_each_batch_was_made_of(tmp_path) -> None:
    parts = {"real": FakeSource("recorded"), "made": FakeSource("phantom")}
    mixture = MixtureSource(parts, {"real": 1, "made": 3})
    storage = RunStorage(str(tmp_path))
    buffer = LedgerBuffer(storage, rank=0, attempt="first")
    for step in range(1, 5):
        slots = [slot for slot in range(4 * step - 4, 4 * step) if slot != 7]
        buffer.add_trained(taught_batch([mixture.clip(slot) for slot in slots], slots), step)
    rows = storage.read_table(next(iter(buffer.flush(4)["ledger"]))).to_pylist()
    for step in (1, 3, 4):
        sources = sorted(row["source"] for row in rows if row["step"] == step)
        assert sources == ["made", "made", "made", "real"]
    assert {row["domain"] for row in rows} == {"domain of phantom", "domain of recorded"}


def test_a_mixture_is_built_from_its_config() -> None:
    config = SourceConfig(
        kind="mixture",
        parts={"a": MixturePart(weight=1), "b": MixturePart(weight=1, seed_offset=5)},
        seed_offset=100,
    )
    source = build_source(config, WindowConfig(frames=2, size=32), seed=3, case_frames=4)
    assert isinstance(source, MixtureSource)
    assert source.num_cases is None
    first, second = source.clip(0), source.clip(1)
    assert {first.source, second.source} == {"a", "b"}
    assert {first.seed, second.seed} == {part_seed(103, "a", 0), part_seed(103, "b", 5)}
    assert first.conditions != second.conditions  # parts show different patients
    again = build_source(config, WindowConfig(frames=2, size=32), seed=3, case_frames=4).clip(0)
    assert np.array_equal(again.video, first.video)


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"source.domain: got 'x', the phantom has default"):
        build_source(SourceConfig(domain="x"), WindowConfig(), seed=0, case_frames=4)
