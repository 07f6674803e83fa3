"""Time and cost of a run from a pilot's rates, on hand-made numbers."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from echodfkd.config.file import config_to_yaml, load_config, override
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.runtime.cluster.sizing import estimate, estimate_run
from echodfkd.runtime.command import run_job

PILOT = {"pipeline": {"stages": {
    "source": {"clips": 800, "busy_s": 100.0, "actors": 3, "frames": 1},
    "teacher": {"clips": 800, "busy_s": 200.0, "actors": 2, "frames": 1},
    "students": {"clips": 800, "busy_s": 80.0, "actors": 1, "frames": 1},
    "evaluator": {"clips": 10, "busy_s": 20.0, "actors": 1, "frames": 1},
}}}  # fmt: skip
"""Rates: source 8, teacher 4, students 10 clips/s, evaluator 0.5 cases/s."""
RUN = [
    "students.a={blocks: 1}", "students.b={blocks: 1}", "train.steps=9000", "train.global_batch=8",
    "train.checkpoint_every=3000", "data.source_tasks=4", "teacher.max_actors=2", "evaluation.cases=24",
]  # fmt: skip


def config(*more: str) -> RunConfig:
    return load_config(None, [*RUN, *more])


def test_the_slowest_stage_is_the_bound():
    found = estimate(config(), config(), PILOT)
    assert (found.clips, found.bound, found.clips_s) == (72_000, "teacher", 8.0)
    assert found.hours == pytest.approx(2.5)  # 72,000 clips at 8 a second
    actors = {stage.name: (stage.actors, stage.most) for stage in found.stages}
    assert actors == {"source": (2, 4), "teacher": (2, 2), "students": (1, 1), "evaluator": (1, 1)}
    assert found.notes == ()
    more = estimate(config("teacher.max_actors=4"), config(), PILOT)
    assert (more.bound, more.clips_s) == ("students", 10.0)
    assert {stage.name: stage.actors for stage in more.stages}["teacher"] == 3  # 10 clips/s at 4 each


def test_a_source_waits_between_its_tasks_to_be_seen():
    """A block of 8 clips takes 1 s to make and 0.15 s to be followed by another."""
    found = estimate(config("data.source_tasks=1"), config(), PILOT)
    assert (found.bound, found.clips_s) == ("source", pytest.approx(8 / 1.15))
    small = estimate(config("data.source_tasks=1", "train.global_batch=2"), config(), PILOT)
    assert small.clips_s == pytest.approx(2 / (0.25 + 0.15))


def test_short_times_and_small_costs_are_no_zeros_and_the_pilots_own_rate_stands_beside():
    own = {**PILOT, "ledger": {"clips": 1260}, "pipeline": {**PILOT["pipeline"], "steady_s": 20.0}}
    found = estimate(config("train.steps=6", "sizing.price_per_hour={teacher: 1.5}"), config(), own)
    text = "\n".join(found.lines())
    assert " 0.0 h" not in text
    assert "cost 0 " not in text
    assert re.search(r"take \d+ min; the bound is", text)
    assert "the pilot itself trained 63.0 clips/s from its first update to its last" in text


def test_prices_and_what_has_none():
    prices = "sizing.price_per_hour={teacher: 1.5, students: 4, head: 0.2, evaluator: 0}"
    found = estimate(config(prices), config(), PILOT)
    costs = {stage.name: stage.cost for stage in found.stages}
    assert costs == {
        "source": None,
        "teacher": pytest.approx(2 * 2.5 * 1.5),
        "students": pytest.approx(2.5 * 4),
        "evaluator": 0.0,
        "head": pytest.approx(0.5),
    }
    text = "\n".join(found.lines())
    assert "72,000 clips at 8.0 clips/s take 2.5 h; the bound is teacher" in text
    assert "cost 18 in all (without source: sizing.price_per_hour has no price)" in text
    assert "nan" not in text


def test_a_pool_is_never_smaller_than_its_least_and_machines_are_rented_whole():
    """Students are the bound at 10 clips/s, which 3 teachers teach; 6 are kept, on machines of 4."""
    prices = "sizing.price_per_hour={teacher: 8, students: 4}"
    run = config("teacher.max_actors=8", "teacher.min_actors=6", prices, "sizing.per_machine={teacher: 4}")
    found = estimate(run, config(), PILOT)
    teacher = next(stage for stage in found.stages if stage.name == "teacher")
    assert (found.bound, teacher.actors, teacher.machines) == ("students", 6, 2)
    assert teacher.cost == pytest.approx(2 * 2.0 * 8)  # 72,000 clips at 10 a second: 2 h
    assert any("6 of at most 8, 4.00 clips/s each, 2 machines, 2.0 h, cost 32" in line for line in found.lines())


def test_the_start_is_paid_and_traffic_is_said():
    pilot = {"pipeline": {**PILOT["pipeline"], "first_step_s": 120.0}}
    run = config("sizing.price_per_gb=0.02", "sizing.price_per_hour={teacher: 1}")
    found = estimate(run, config(), pilot)
    assert (found.start_s, found.hours) == (120.0, pytest.approx(2.5 + 120 / 3600))
    pixels = run.window.frames * run.window.size**2  # bytes of the video; a taught clip has its masks as well
    assert found.traffic_gb == pytest.approx(72_000 * (pixels + run.clip_bytes) / 1e9)
    traffic = found.traffic_gb * 0.02
    text = "\n".join(found.lines())
    assert f"cost {traffic:.2f} if all of it crosses zones" in text
    assert f"cost {2 * found.hours + traffic:.2f} in all" in text
    assert "the bound is teacher; the start is 2 min of it" in text


def test_machines_that_are_lost_are_replaced_and_students_start_again():
    """Teachers are there ten hours of eleven. Students lose a machine every two hours, and each time an hour for the
    next one, 30 s for their start, and half of 3,000 updates of 8 clips."""
    lost = "sizing.losses_per_hour={teacher: 0.1, students: 0.5}"
    found = estimate(config(lost, "sizing.machine_start_s=3600"), config(), PILOT)
    assert found.clips_s == pytest.approx(8 / 1.1)
    hours = 72_000 / (8 / 1.1) / 3600
    stops_s = hours / 2 * (3600 + 30 + 12_000 / (8 / 1.1))
    assert (found.stops_s, found.hours) == (pytest.approx(stops_s), pytest.approx(hours + stops_s / 3600))
    assert f"the start is 0 min of it, the loss of machines {stops_s / 3600:.1f} h" in found.lines()[0]
    head = estimate(config("sizing.losses_per_hour={head: 1}", "sizing.machine_start_s=0"), config(), PILOT)
    assert head.stops_s == pytest.approx(2.5 * (30 + 12_000 / 8))
    scored = estimate(config("sizing.losses_per_hour={evaluator: 1}", "sizing.machine_start_s=3600"), config(), PILOT)
    assert next(stage for stage in scored.stages if stage.name == "evaluator").clips_s == pytest.approx(0.25)
    with pytest.raises(ConfigError, match=r"sizing.losses_per_hour: got 'spot', allowed are source, generator"):
        config("sizing.losses_per_hour={spot: 1}")


def test_evaluators_that_end_after_the_students():
    """3 checkpoints of 2 students and the teacher: 7 x 2,400 cases at 0.5 a second are 9.33 h."""
    found = estimate(config("evaluation.cases=2400"), config(), PILOT)
    assert found.hours == pytest.approx(7 * 2400 / 0.5 / 3600)
    assert any(re.search(r"evaluators end 6.8 h after the students", note) for note in found.notes)
    assert estimate(config("evaluation.enabled=false"), config(), PILOT).hours == pytest.approx(2.5)


def test_larger_clips_take_longer_and_differences_are_said():
    found = estimate(config("window.size=112", "teacher.num_gpus=1"), config(), PILOT)
    assert found.clips_s == pytest.approx(2.0)  # four times the pixels
    assert len(found.notes) == 2
    assert found.notes[0] == "the pilot has teacher.num_gpus 0.0, this run 1.0"


def test_a_pilot_that_tells_too_little():
    for stages, words in (
        ({}, "does not tell what the stage source did"),
        ({"source": {"clips": 0, "busy_s": 1}}, "its stage source made 0 clips in 1 s; let it train longer"),
        ({"source": {"clips": "x", "busy_s": 1}}, "does not tell what the stage source did"),
    ):
        with pytest.raises(InputError, match=words):
            estimate(config(), config(), {"pipeline": {"stages": stages}})
    with pytest.raises(InputError, match=r"sizing.pilot: /nowhere holds no finished run"):
        estimate_run(config("sizing.pilot=/nowhere"))


def test_dry_run_prints_it_as_comments(tmp_path, capsys):
    (tmp_path / "summary.json").write_text(json.dumps(PILOT))
    (tmp_path / "config.yaml").write_text(config_to_yaml(config()))
    arguments = ["--dry-run", *RUN, f"sizing.pilot={tmp_path}"]
    assert run_job(lambda config: {}, description="", arguments=arguments) == 0
    printed = capsys.readouterr().out
    assert "# estimate: 72,000 clips at 8.0 clips/s take 2.5 h; the bound is teacher" in printed
    assert yaml.safe_load(printed)["train"]["steps"] == 9000  # still YAML
    assert run_job(lambda config: {}, description="", arguments=[*arguments[:-1], "sizing.pilot=/nowhere"]) == 2
    assert "error: sizing.pilot: /nowhere holds no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("sizing.price_per_hour={boat: 1}", "got 'boat', allowed are source, generator"),
        ("sizing.per_machine={boat: 1}", "got 'boat', allowed are source, generator"),
        ("sizing.price_per_hour={head: -1}", r"price_per_hour.head: got -1.0, must be at least 0"),
    ],
)
def test_prices_that_cannot_be(given, words):
    with pytest.raises(ConfigError, match=words):
        config(given)


def test_an_ensemble_in_one_pool_and_in_several():
    """Members of 5 and 10 clips/s, and a fusing stage of 100: one actor of all does 1 / (0.2 + 0.1 + 0.01) a second."""
    ensemble = ["teacher.kind=ensemble", "teacher.members.a.kind=embedded", "teacher.members.b.kind=embedded"]
    stages = {
        **PILOT["pipeline"]["stages"],
        "teacher": {"clips": 100, "busy_s": 1.0},
        "teacher.a": {"clips": 100, "busy_s": 20.0},
        "teacher.b": {"clips": 100, "busy_s": 10.0},
    }
    pilot = {"pipeline": {"stages": stages}}
    one = estimate(config(*ensemble), config(*ensemble), pilot)
    assert one.bound == "teacher"
    assert one.clips_s == pytest.approx(2 / 0.31)
    each = [*ensemble, "teacher.pools=each", "teacher.members.a.max_actors=1", "teacher.members.b.max_actors=3",
            "sizing.price_per_hour={teacher: 1}"]  # fmt: skip
    several = estimate(config(*each), config(*each), pilot)
    assert (several.bound, several.clips_s) == ("teacher.a", 5.0)
    assert {stage.name: stage.actors for stage in several.stages if stage.cost} == {
        "teacher.a": 1,
        "teacher.b": 1,
        "teacher": 1,
    }


def test_generators_are_a_stage_and_as_many_as_keep_a_teacher_busy(tmp_path):
    (tmp_path / "files").write_bytes(b"weights")
    options = f"{{kind: echonet_synthetic, generator: {{weights: {tmp_path}/files, max_actors: 3}}}}"
    mixed = config("source.kind=mixture", "source.parts.drawn={weight: 3}", f"source.parts.made={options}")
    work = {"clips": 200, "busy_s": 400.0, "actors": 1, "frames": 1}  # 0.5 clips/s of a quarter of the clips
    stages = {**PILOT["pipeline"]["stages"], "generator.made": work}
    found = estimate(mixed, mixed, {"pipeline": {"stages": stages}})
    assert (found.bound, found.clips_s) == ("generator.made", 6.0)
    assert found.notes == ("2 actors of generator.made keep one teacher actor busy",)
    assert [stage.name for stage in found.stages] == ["source", "generator.made", "teacher", "students", "evaluator"]
    priced = estimate(
        override(mixed, ["sizing.price_per_hour={generator: 2}"]), mixed, {"pipeline": {"stages": stages}}
    )
    assert {s.name: s.cost for s in priced.stages}["generator.made"] == pytest.approx(3 * 72_000 / 6 / 3600 * 2)
