"""Laws of a steered run, and which patient an index shows under them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echodfkd.config.file import load_config
from echodfkd.config.rules.jobs import needs_clips_folder
from echodfkd.config.sections.source import SourceConfig
from echodfkd.config.sections.steering import CurriculumStage, SteeringConfig
from echodfkd.core.errors import ConfigError, InputError, RunError
from echodfkd.metrics.strata import strata_of
from echodfkd.runtime.stream.builders import drafting_source, training_source
from echodfkd.sources.build import check_drawn_sources
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.steering import plan as plan_module
from echodfkd.sources.steering.laws import (
    Timetable,
    curriculum_weights,
    first_laws,
    make_law,
    measured_law,
)
from echodfkd.sources.steering.plan import SteeringPlan
from echodfkd.sources.steering.replay import _row_problem
from echodfkd.sources.steering.source import SteeredSource
from echodfkd.sources.steering.strata import Cells
from echodfkd.storage.steering import UNIT, Law, SteeringState, Window
from echodfkd.training.in_process import distil_clips
from tests.helpers.teachers import FloatTeacher

STRATA = {"ef_percent": [40.0], "heart_rate_bpm": [75.0]}
RUN = [
    "students.a.blocks=1", "students.a.layers=1", "window.size=16", "window.frames=2", "train.steps=40",
    "train.global_batch=4", "train.checkpoint_every=10",
    "source.steering.strata={ef_percent: [40], heart_rate_bpm: [75]}",
]  # fmt: skip


@pytest.fixture(scope="module")
def plan() -> SteeringPlan:
    return SteeringPlan(load_config(None, RUN).source, seed=0)


def changed(plan: SteeringPlan, **options: object) -> SteeringPlan:
    """The plan with other options of the law."""
    other = object.__new__(SteeringPlan)
    other.__dict__.update(plan.__dict__)
    steering = dataclasses.replace(plan.source.steering, **options)  # type: ignore[arg-type]
    other.source = dataclasses.replace(plan.source, steering=steering)
    return other


def steered(**options: Any) -> SourceConfig:
    return SourceConfig(steering=SteeringConfig(**options))


laws_of = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.05, 50),
        "floor": st.floats(0.01, 1),
        "curriculum": st.lists(
            st.builds(
                CurriculumStage,
                step=st.just(0),
                shares=st.fixed_dictionaries(
                    {"ef_percent": st.lists(st.floats(0.01, 10), min_size=2, max_size=2)},
                ),
            ),
            max_size=1,
        ),
        "follow": st.sampled_from(["disagreement", "none"]),
    }
)
losses = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1)), min_size=4, max_size=4)
shares_of = st.lists(st.integers(1, 100), min_size=4, max_size=4).map(lambda x: [part / sum(x) for part in x])


@settings(max_examples=150, deadline=None)
@given(laws_of, losses, shares_of)
def test_a_law_is_a_distribution_that_keeps_a_share_of_every_stratum(options, loss, shares) -> None:  # type: ignore[no-untyped-def]
    source = steered(strata=STRATA, **options)
    steering = source.steering
    law = make_law(source, shares, 10, loss)
    towards = law.towards or tuple(shares)
    assert sum(towards) == pytest.approx(1, abs=1e-9)
    drawn = [steering.floor * p + (1 - steering.floor) * t for p, t in zip(shares, towards, strict=True)]
    assert all(q >= steering.floor * p * (1 - 1e-12) for p, q in zip(shares, drawn, strict=True))
    # the weights undo the law: the weighted shares are those of the patients
    assert [q * w for q, w in zip(drawn, law.weights, strict=True)] == pytest.approx(shares)
    assert make_law(source, shares, 10, loss) == law
    if options["follow"] == "disagreement" and not options["curriculum"] and all(loss):
        order = sorted(range(4), key=lambda k: loss[k])
        assert all(towards[a] <= towards[b] for a, b in itertools.pairwise(order))


def test_the_law_is_the_power_of_the_mean_disagreements() -> None:
    steering = steered(strata=STRATA, temperature=0.5, floor=0.2)
    window = Window((round(0.3 * UNIT), round(0.4 * UNIT), 0, 0, 0), (3, 2, 0, 0, 0))
    before = Law(0, (), (1.0,) * 4, (0.0, 0.0, 0.4, 0.0), (0,) * 4)
    law = measured_law(steering, (0.4, 0.3, 0.2, 0.1), 20, window, before, ((7, 0, 1),))
    # means 0.1 and 0.2; the third stratum keeps its 0.4 from before; the fourth is unknown and has the mean, 0.7 / 3
    squares = [0.01, 0.04, 0.16, (0.7 / 3) ** 2]
    assert law.towards == pytest.approx([value / sum(squares) for value in squares], rel=1e-5)
    assert (law.step, law.clips, law.again) == (20, (3, 2, 0, 0), ((7, 0, 1),))
    assert law.weights[3] == pytest.approx(0.1 / (0.2 * 0.1 + 0.8 * squares[3] / sum(squares)), rel=1e-5)


def test_a_curriculum_changes_linearly_and_composes_with_the_disagreement() -> None:
    stages = [
        CurriculumStage(0, {"ef_percent": [0.0, 1.0]}),
        CurriculumStage(100, {"ef_percent": [1.0, 1.0], "heart_rate_bpm": [1.0, 3.0]}),
    ]
    cells = Cells.of(steered(strata=STRATA))
    assert curriculum_weights(stages, cells, 0) == [0, 0, 1, 1]
    assert curriculum_weights(stages, cells, 50) == pytest.approx([0.5, 1.5, 1.0, 2.0])
    assert curriculum_weights(stages, cells, 500) == [1, 3, 1, 3]
    shares = (0.25, 0.25, 0.25, 0.25)
    only = steered(strata=STRATA, follow="none", curriculum=stages)
    assert make_law(only, shares, 50, (0.5, 0, 0, 0)).towards == pytest.approx([0.1, 0.3, 0.2, 0.4])
    both = steered(strata=STRATA, temperature=1.0, curriculum=stages)
    wanted = np.array([0.5, 1.5, 1.0, 2.0]) * [0.1, 0.1, 0.2, 0.3]
    assert make_law(both, shares, 50, (0.1, 0.1, 0.2, 0.3)).towards == pytest.approx(wanted / wanted.sum())


@pytest.mark.parametrize(
    ("every", "made", "first"), [(1, {10: 20, 20: 30, 30: 40, 40: 50}, 2), (2, {10: 20, 30: 40}, 1)]
)
def test_a_law_is_made_one_checkpoint_before_it_holds(every: int, made: dict[int, int], first: int) -> None:
    config = load_config(None, [*RUN, f"source.steering.every={every}"])
    times = Timetable.of(config)
    assert {done: step for done in range(41) if (step := times.next_step(done)) is not None} == made
    assert len(first_laws(config.source, (0.5, 0.5), times)) == first
    assert [times.law(index) for index in (0, every * 40 - 1, every * 40, 160, 160 + every * 40)] == [0, 0, 1, 0, 1]


def test_cells_are_the_strata_of_the_report(plan: SteeringPlan) -> None:
    sampler = ConditionSampler(load_config(None, RUN).source.conditions, seed=3)
    drawn = [sampler.draw(number).conditions for number in range(60)]
    cells = Cells.of(steered(strata={"ef_percent": [], "view": []}))
    found = strata_of({"ef_percent": [one.ef_percent for one in drawn]})["ef_percent"]
    for label, rows in found.items():
        assert {cells.labels[cells.place(vars(drawn[row]))] for row in rows} == {(label, "A4C")}
    assert plan.name(1) == "ef_percent < 40, heart_rate_bpm >= 75"
    assert plan.name(plan.other) == "other"


def test_shares_of_the_patients_are_those_of_their_distribution(plan: SteeringPlan) -> None:
    sampler = ConditionSampler(load_config(None, RUN).source.conditions, seed=99)
    counts = Counter(plan.cells.place(vars(sampler.draw(number).conditions)) for number in range(1000))
    for cell, share in enumerate(plan.shares):  # two independent estimates: 4 standard errors of both
        error = math.sqrt(share * (1 - share) * (1 / 1000 + 1 / plan_module.COUNTED))
        assert counts[cell] / 1000 == pytest.approx(share, abs=4 * error + 1e-9)


def test_some_conditions_are_those_of_the_whole_patient(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ef_percent,sex\n30,F\n,M\n61,\n")
    conditions = load_config(None, [*RUN[:-1], f"source.conditions.table={tmp_path}/t.csv"]).source.conditions
    for config in (load_config(None, RUN).source.conditions, conditions):
        sampler = ConditionSampler(config, seed=4)
        for index, attempt in ((0, 0), (3, 0), (3, 7), (4, 2)):
            whole = vars(sampler.draw(index, attempt=attempt).conditions)
            some = sampler.some(index, ["sex", "ef_percent", "bsa_m2"], purpose="clip", attempt=attempt)
            assert some == {name: whole[name] for name in ("sex", "ef_percent", "bsa_m2")}


def test_clips_follow_the_law_and_patients_the_conditions(plan: SteeringPlan) -> None:
    law = dataclasses.replace(make_law(plan.source, plan.shares, 0, (0.0,) * 4), towards=(0.6, 0.0, 0.0, 0.4))
    places = [plan.place(index, law) for index in range(400)]
    assert places == [plan.place(index, law) for index in range(400)]
    own = ConditionSampler(load_config(None, RUN).source.conditions, seed=0)
    drawn = [own.draw(place.index, attempt=place.draw).conditions for place in places]
    assert [plan.cells.place(vars(one)) for one in drawn] == [place.stratum for place in places]
    for stratum, towards in enumerate(law.towards):
        share = 0.5 * plan.shares[stratum] + 0.5 * towards
        error = math.sqrt(share * (1 - share) / 400)
        found = sum(place.stratum == stratum for place in places) / 400
        assert found == pytest.approx(share, abs=4 * error)
    # within a stratum patients are spread as without a law: the rates of failing slow hearts, by their ranks
    steered = [c.heart_rate_bpm for c, place in zip(drawn, places, strict=True) if place.draw and place.stratum == 0]
    sampler = ConditionSampler(load_config(None, RUN).source.conditions, seed=5)
    plain = [one for one in (sampler.draw(i).conditions for i in range(1200)) if plan.cells.place(vars(one)) == 0]
    from scipy.stats import ks_2samp

    assert ks_2samp(steered, [one.heart_rate_bpm for one in plain]).pvalue > 0.001
    # one number of an index does not decide on another: floor clips and steered ones alternate by chance
    assert 150 < sum(place.draw == 0 for place in places) < 250


def test_clips_come_back_by_identity_in_a_bounded_share(plan: SteeringPlan) -> None:
    again = ((5, 0, 2), (9, 3, 0))
    law = Law(40, (0.25,) * 4, (1.0,) * 4, (0.0,) * 4, (0,) * 4, again)
    bringing = changed(plan, again=0.2)
    choices = [bringing.choose(index, law) for index in range(1000)]
    back = [choice.comes_back for choice in choices if choice.comes_back]
    assert set(back) == set(again)
    assert len(back) == pytest.approx(200, abs=4 * math.sqrt(1000 * 0.2 * 0.8))
    assert not any(plan.choose(index, law).comes_back for index in range(200))  # the share is 0


def test_a_source_without_steering_gives_the_same_clips_and_one_with_it_those_of_the_law(plan: SteeringPlan) -> None:
    config = load_config(None, RUN)
    plain = training_source(load_config(None, RUN[:-1]))
    laws = [Law(0, (), (1.0,) * 4, (0.0,) * 4, (0,) * 4), Law(10, (1.0, 0, 0, 0), (1.0,) * 4, (0.0,) * 4, (0,) * 4)]
    source = SteeredSource(plain, plan, Timetable.of(config), lambda number: laws[number])  # type: ignore[arg-type]
    assert source.clip(3).clip_id == plain.clip(3).clip_id
    assert np.array_equal(source.clip(3).video, plain.clip(3).video)
    index = next(index for index in range(40, 80) if source.place(index).draw)
    clip = source.clip(index)
    assert (clip.clip_id, clip.index) == (f"phantom-default-s0-i{index}d{source.place(index).draw}-e0-w0", index)
    assert clip.conditions.ef_percent is not None
    assert clip.conditions.ef_percent < 40
    assert source.case(2).clip_id == plain.case(2).clip_id


def test_a_clip_of_a_law_that_is_not_published_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "COUNTED", 512)
    source = training_source(load_config(None, [*RUN, f"storage={tmp_path}"]))
    assert source.clip(0).index == 0
    with pytest.raises(RunError, match=r"a clip of law 2 was asked for before a checkpoint of .*demo held that law"):
        source.clip(80)


def test_a_pending_clip_is_asked_of_its_generator_with_the_patient_of_the_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from echodfkd.teaching.generating import GeneratedPart

    monkeypatch.setattr(plan_module, "COUNTED", 512)
    config = load_config(None, [*RUN, f"storage={tmp_path}", "source.kind=latent_video"])
    source = drafting_source(config)
    assert isinstance(source, SteeredSource)
    source._laws = lambda number: Law(0, (1.0, 0.0, 0.0, 0.0), (1.0,) * 4, (0.0,) * 4, (0,) * 4)
    clip = next(clip for clip in map(source.clip, range(40)) if "d" in clip.clip_id.rpartition("-i")[2])

    class Wants:
        wants_label_map = False

    request = GeneratedPart(source, "", Wants()).request(clip.index)  # type: ignore[arg-type]
    assert request.clip_id == clip.clip_id
    assert request.conditions["ef_percent"] == clip.conditions.ef_percent


MIXTURE = [
    "source={kind: mixture, parts: {usual: {weight: 9}, hand: {weight: 1, domain: handheld}}}",
    "source.steering.strata={source: [], ef_percent: [40]}",
]


def test_the_parts_of_a_mixture_are_strata_and_their_clips_follow_the_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "COUNTED", 1000)
    config = load_config(None, [*RUN[:-1], *MIXTURE, f"storage={tmp_path}"])
    plan = SteeringPlan(config.source, config.seed)
    assert plan.names[:2] == ["source hand, ef_percent < 40", "source hand, ef_percent >= 40"]
    assert sum(plan.shares[:2]) == pytest.approx(0.1)  # exact by the schedule, the ejection fractions by chance
    wanted = Law(0, (1.0, 0.0, 0.0, 0.0), (1.0,) * 4, (0.0,) * 4, (0,) * 4)
    source, plain = training_source(config), training_source(load_config(None, [*RUN[:-1], MIXTURE[0]]))
    assert isinstance(source, SteeredSource)
    source._laws = lambda number: wanted
    clips = [source.clip(index) for index in range(24)]
    assert len({clip.clip_id for clip in clips}) == 24
    for clip in clips:
        if source.place(clip.index).draw:
            assert clip.clip_id.startswith(f"hand-phantom-handheld-s{clip.seed}-i{clip.index}d")
            assert (clip.source, clip.domain, clip.stratum) == ("hand", "handheld", plan.names[0])
            assert clip.conditions.ef_percent is not None
            assert clip.conditions.ef_percent < 40
        else:
            assert clip.clip_id == plain.clip(clip.index).clip_id
            assert clip.stratum.startswith(f"source {clip.source}, ef_percent")
        row = {"slot": clip.index, "comes_back": False} | vars(clip)
        assert _row_problem(plan, Timetable.of(config), [wanted] * 4, row) == ""
    assert 4 < sum(source.place(clip.index).draw > 0 for clip in clips) < 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["source.steering.strata={fps: [30]}"], "source.steering.strata: got 'fps', allowed are ef_percent"),
        (["source.steering.strata={ef_percent: [50, 40]}"], r"strata.ef_percent: got \[50.0, 40.0\], must ascend"),
        (["source.steering.strata={bsa_m2: []}"], "strata.bsa_m2: empty, and the report has no edges of it"),
        (["source.steering.strata={view: [1]}"], r"strata.view: got \[1.0\], must be \[\]"),
        (["source.steering.strata={source: []}"], "strata.source: set, but source.kind is no mixture"),
        (
            [*MIXTURE, "source.parts.usual={kind: folder, path: /x}"],
            "source.parts.usual.kind is folder; only patients that are drawn",
        ),
        (
            [*MIXTURE, "source.steering.curriculum=[{step: 0, shares: {source: [1, 2, 3]}}]"],
            "got 3 weights, source.steering.strata cuts 2 intervals",
        ),
        (["source.kind=folder", "source.path=/x"], "source.kind is folder; only patients that are drawn"),
        (
            ["source.conditions.stratify={condition: ef_percent, edges: [40], shares: [1, 1]}"],
            "source.conditions.stratify too",
        ),
        (["source.steering.follow=none"], "nothing is steered"),
        (["source.steering.judged=0.5"], "judged: set, but source.steering.follow is disagreement; it is for judge"),
        (["source.steering.curriculum=[{step: 3}]"], r"curriculum: got the steps \[3\], must ascend from 0"),
        (
            ["source.steering.curriculum=[{step: 0, shares: {ef_percent: [1]}}]"],
            "got 1 weights, source.steering.strata cuts 2 intervals",
        ),
        (["source.steering.curriculum=[{step: 0, shares: {sex: [1, 2]}}]"], "got 'sex', allowed are ef_percent"),
        (["source.steering.curriculum=[{step: 0, shares: {ef_percent: [0, 0]}}]"], "at least one above 0"),
        (["evaluation.source.steering.strata={sex: []}"], "held-out cases are not steered"),
        (["source.steering.strata={}", "source.steering.floor=0.1"], "source.steering.strata: empty, but other"),
        (["source.steering.floor=0"], "source.steering.floor: got 0.0, must lie in 0 < value <= 1"),
    ],
)
def test_options_that_cannot_work_are_refused(options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, [*RUN, *options])


def test_clips_in_a_folder_are_not_steered() -> None:
    with pytest.raises(ConfigError, match="clips in a folder are drawn before any training"):
        needs_clips_folder(load_config(None, [*RUN, "synthesize.out=/tmp/x"]))


def test_clips_of_an_iterator_are_not_steered(plan: SteeringPlan, tmp_path: Path) -> None:
    clips = map(training_source(load_config(None, RUN[:-1])).clip, range(9))
    options = {"source": {"steering": {"strata": {"ef_percent": [40]}}}}
    with pytest.raises(ConfigError, match="the clips are those of an iterator"):
        distil_clips({"blocks": 1}, FloatTeacher(), clips, str(tmp_path), options=options)


def test_strata_without_patients_are_refused() -> None:
    config = load_config(None, [*RUN[:-1], "source.steering.strata={heart_rate_bpm: [139]}"])
    with pytest.raises(ConfigError, match=r"1 of its 2 strata hold 0\.5% of the patients or more, at least 2 must"):
        check_drawn_sources(config)


def test_stored_laws_keep_every_bit_and_damaged_ones_are_refused() -> None:
    law = Law(0, (1 / 3, 2 / 3), (0.1, 1.7), (0.25, 1e-9), (3, 0), ((1, 2, 0),))
    state = SteeringState((law, dataclasses.replace(law, step=50)), Window((5, 6, 7), (1, 2, 3), ((9, 4),)))
    assert SteeringState.from_json(*state.files().values(), "x") == state
    for change in (
        {"laws": []},
        {"laws": 3},
        {"window": {"sums": [1], "clips": [1], "hard": []}},
        {"window": {"sums": [-1, 0, 0], "clips": [1, 2, 3], "hard": []}},
        {"window": {"sums": [1, 0, 0], "clips": [1, 2, 3], "hard": [[1, 2, 3]]}},
        {"laws": [{**dataclasses.asdict(law), "towards": ["a", 1]}]},
        {"laws": [{**dataclasses.asdict(law), "step": 7}]},
        {"laws": [{**dataclasses.asdict(law), "again": [[1, 2]]}]},
    ):
        values = json.loads(*state.files().values()) | change
        with pytest.raises(InputError, match="x holds no laws of a steered run"):
            SteeringState.from_json(json.dumps(values).encode(), "x")


def test_the_teacher_sees_another_rendering_of_the_patient_that_the_law_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "COUNTED", 512)
    options = ["source.steering.curriculum=[{step: 0, shares: {ef_percent: [1, 0]}}]", "source.steering.floor=0.1"]
    config = load_config(None, [*RUN, *options, f"storage={tmp_path}", "teacher.sees.noise=false"])
    clip = next(clip for clip in map(training_source(config).clip, range(9)) if "d" in clip.clip_id.rpartition("-i")[2])
    assert clip.seen_id.startswith(f"{clip.clip_id}+")
    assert clip.seen_video is not None
    own, seen = (video.astype(float).ravel() for video in (clip.video, clip.seen_video))
    assert np.corrcoef(own, seen)[0, 1] > 0.9  # one heart; that of another patient correlates far less
    assert not np.array_equal(own, seen)
