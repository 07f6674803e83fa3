"""The config: every shipped file loads, every mistake is one sentence that names the option."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from echodfkd.config.file import config_from_dict, config_to_yaml, load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.rules.heads import check_teacher_gives
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.source import ChoiceSpec, ConditionsConfig, ConditionSpec, StratifySpec, WeightedSpec
from echodfkd.config.sections.training import DataConfig
from echodfkd.core.errors import ConfigError

ONE_STUDENT = "students.a.blocks=2"
CONFIGS = sorted(Path(__file__).parents[3].glob("configs/**/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_loads_and_survives_its_own_dump(path: Path) -> None:
    places = ["source.path=/data", "evaluation.source.path=/data", "teacher.weights=/weights.pt"]
    complete = any(
        kind in path.read_text() for kind in ("kind: mixture", "kind=mixture", "kind: ensemble")
    )  # parts name their own files
    config = load_config(str(path), [] if complete else places)
    assert config_from_dict(yaml.safe_load(config_to_yaml(config))) == config


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {steps: 7, workers: 2}\nstudents: {a: {blocks: 1}}\n")
    config = load_config(str(path), ["train.steps=9"])
    assert (config.train.steps, config.train.workers) == (9, 2)
    assert config.train.accumulation == RunConfig().train.accumulation
    assert config.plan_slots == 9 * config.train.global_batch


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trian.steps=3"], "trian: unknown option; allowed are augment, data,"),
        (
            [ONE_STUDENT, "students.a.blokcs=2"],
            "students.a.blokcs: unknown option; allowed are activation, bidirectional, blocks",
        ),
        ([ONE_STUDENT, "train.steps=many"], "train.steps: got 'many', expected a whole number"),
        ([ONE_STUDENT, "train.steps=0"], "train.steps: got 0, must be at least 1"),
        ([ONE_STUDENT, "train.steps"], "override 'train.steps': expected key=value"),
        ([ONE_STUDENT, "train=3"], "train: got 3, expected names with values"),
        ([ONE_STUDENT, "train.workers=3"], "train.global_batch: got 8, must be a multiple of train.workers (3)"),
        ([ONE_STUDENT, "train.zero_stage=4"], "train.zero_stage: got 4, allowed are 0, 1, 2, 3"),
        ([ONE_STUDENT, "train.early_stop_patience=0"], "train.early_stop_patience: got 0, must be at least 1"),
        ([ONE_STUDENT, "train.early_stop_min_delta=1"], "train.early_stop_min_delta: got 1.0, must lie in 0 <= value"),
        (
            [ONE_STUDENT, "window.size=55"],
            "window.size: got 55, must be a multiple of 2 because students.a.blocks is 2",
        ),
        (
            [ONE_STUDENT, "window.size=55", "students.a.side=57"],
            "students.a.side: got 57, must be a multiple of 2 because students.a.blocks is 2",
        ),
        ([ONE_STUDENT, "students.a.classes=[LA]"], "students.a.classes: got LA, must hold LV"),
        ([ONE_STUDENT, "students.a.classes=[]"], "students.a.classes: got none, must hold LV"),
        (
            [ONE_STUDENT, "students.a.classes=[LV, LA, la]"],
            "students.a.classes: got LV, LA, la, must not name one thing",
        ),
        ([ONE_STUDENT, "students.a.classes=[LV, 'L A']"], "students.a.classes: got 'L A', a name may hold letters"),
        ([ONE_STUDENT, "students.a.tasks=[age]"], "students.a.tasks[0]: got 'age', allowed are phase, ef"),
        (
            [ONE_STUDENT, "students.a.tasks=[ef]"],
            "window.frames: got 16 frames at 32 per second (0.50 s), must last at",
        ),
        (
            [ONE_STUDENT, "students.a.tasks=[ef]", "window.fps=0"],
            "window.fps: got 0 (each clip's own), must be above 0",
        ),
        ([ONE_STUDENT, "objective.ef_weight=-1"], "objective.ef_weight: got -1.0, must be at least 0"),
        (
            [ONE_STUDENT, "students.a.objective.bec.weight=1"],
            "students.a.objective.bec: unknown term; allowed are bce, kl, focal, dice, lovasz, boundary, temporal",
        ),
        (
            [ONE_STUDENT, "students.a.objective.kl.temprature=1"],
            "students.a.objective.kl.temprature: unknown option; allowed are confidence, gamma, kind, layer",
        ),
        ([ONE_STUDENT, "students.a.objective.kl.temperature=0"], "objective.kl.temperature: got 0.0, must be at least"),
        (
            [ONE_STUDENT, "students.a.objective.focal.gamma=0.5"],
            "objective.focal.gamma: got 0.5, must be 0 or at least",
        ),
        ([ONE_STUDENT, "students.a.objective.bce.ramp=-1"], "objective.bce.ramp: got -1, must be at least 0"),
        (
            [ONE_STUDENT, "students.a.objective.bce.confidence=high"],
            "bce.confidence: got 'high', allowed are none, entropy",
        ),
        ([ONE_STUDENT, "students.a.objective.lovasz.threshold=1"], "lovasz.threshold: got 1.0, must lie in 0 <= value"),
        (
            [ONE_STUDENT, "students.a.objective.dice.threshold=0.3"],
            "students.a.objective.dice.threshold: dice has no such option; it belongs to lovasz, boundary",
        ),
        (
            [ONE_STUDENT, "students.a.objective={bce: {weight: 0}, dice: {start: 5}}"],
            "students.a.objective: no term has a weight above 0 at the first update; give one of bce, dice",
        ),
        (
            [ONE_STUDENT, "students.a.objective={bce: {}, dice: {ramp: 5}}", "train.early_stop_window=4"],
            "students.a.objective.dice: has start or ramp, but train.early_stop_window is 4",
        ),
        ([ONE_STUDENT, "optimizer.kind=sgd"], "optimizer.kind: got 'sgd', allowed are adam, adamw"),
        ([ONE_STUDENT, "optimizer.schedule=step"], "optimizer.schedule: got 'step', allowed are cosine, linear, const"),
        ([ONE_STUDENT, "train.ema_decay=1"], "train.ema_decay: got 1.0, must lie in 0 <= value < 1"),
        (
            [ONE_STUDENT, "train.ema_decay=0.9", "train.zero_stage=3"],
            "train.ema_decay: got 0.9, but ZeRO stage 3 leaves no worker the whole weights",
        ),
        ([ONE_STUDENT, "students.a.norm=none"], "students.a.norm: got 'none', allowed are batch, group"),
        ([ONE_STUDENT, "teacher.max_actors=0"], "teacher.max_actors: got 0, must be at least teacher.min_actors (1)"),
        ([ONE_STUDENT, "teacher.kind=echonet_deeplabv3"], "teacher.weights: empty"),
        ([ONE_STUDENT, "source.kind=recorded"], "source.path: empty"),
        ([ONE_STUDENT, "source.kind=film"], "source.kind: got 'film', allowed are phantom, recorded, camus, folder"),
        ([ONE_STUDENT, "name=../up"], "name: got '../up'"),
        ([ONE_STUDENT, "evaluation.node_label=eval"], "evaluation.node_label: got 'eval', expected key=value"),
        ([ONE_STUDENT, "optimizer.learning_rate=0"], "optimizer.learning_rate: got 0.0, must be above 0"),
        ([ONE_STUDENT, "data.quarantine_limit=2"], "data.quarantine_limit: got 2.0, must lie in 0 .. 1"),
        ([ONE_STUDENT, "synthesize.frames=1"], "synthesize.frames: got 1, must be at least 2, or 0 (each clip's own"),
        ([ONE_STUDENT, "synthesize.frames=0", "source.kind=recorded", "source.path=/d"], "for clips of the phantom"),
        ([], "students: empty, name at least one"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_option(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_malformed_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: no file nowhere.yaml"):
        load_config("nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("- a\n- list\n")
    with pytest.raises(ConfigError, match="must hold `key: value` lines"):
        load_config(str(broken))
    broken.write_text("train: {steps: [1\n")
    with pytest.raises(ConfigError, match=r"broken.yaml is not readable YAML: line 2: expected ',' or '\]'"):
        load_config(str(broken))


def test_the_hash_sees_what_decides_numbers_and_not_where_they_are_made() -> None:
    base = load_config(None, [ONE_STUDENT])
    for same in ("storage=/elsewhere", "name=other", "train.workers=2", "train.zero_stage=1", "teacher.num_gpus=1"):
        assert config_hash(load_config(None, [ONE_STUDENT, same])) == config_hash(base), same
    for other in ("seed=1", "train.steps=3", "window.size=64", "students.a.layers=2", "optimizer.beta1=0.8"):
        assert config_hash(load_config(None, [ONE_STUDENT, other])) != config_hash(base), other


def test_the_engine_is_no_part_of_a_run_s_identity_and_early_stopping_is() -> None:
    base = config_hash(load_config(None, [ONE_STUDENT]))
    on = "train.early_stop_window=50"
    stopping = config_hash(load_config(None, [ONE_STUDENT, on]))
    assert stopping != base
    assert config_hash(load_config(None, [ONE_STUDENT, "train.engine=plain"])) == base
    assert config_hash(load_config(None, [ONE_STUDENT, "train.early_stop_patience=3"])) == base  # off
    for option in ("train.early_stop_patience=3", "train.early_stop_min_delta=0.1", "train.early_stop_window=9"):
        assert config_hash(load_config(None, [ONE_STUDENT, on, option])) != stopping, option


def test_the_family_config_holds_all_sixteen() -> None:
    path = next(path for path in CONFIGS if path.name == "family.yaml")
    students = load_config(str(path)).students
    assert {(s.blocks, s.layers) for s in students.values()} == {(k, n) for k in range(1, 5) for n in range(1, 5)}
    assert all(name == f"c{s.blocks}{s.layers}" and s.filters == 12 for name, s in students.items())


def conditions(text: str) -> list[str]:
    return [ONE_STUDENT, f"source.conditions.{text}"]


def test_a_distribution_that_is_given_replaces_the_default_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "students: {a: {blocks: 1}}\n"
        "source:\n"
        "  conditions:\n"
        "    ef_percent: {low: 20, high: 40}\n"
        "    heart_rate_bpm: [90, 120]\n"
        "    age_years: 75\n"
        "    bsa_m2: {mixture: [{value: 1.7, weight: 2}, 2.0, [1.8, 1.9]]}\n"
        "    view: {A4C: 1, A2C: 3}\n"
        "    sex: F\n"
        "    stratify: {condition: ef_percent, edges: [30], shares: [1, 1]}\n"
    )
    found = load_config(str(path), ["source.conditions.ef_percent.high=35"]).source.conditions
    assert found.ef_percent == ConditionSpec(low=20, high=35)
    assert found.heart_rate_bpm == ConditionSpec(low=90, high=120)
    assert found.age_years == ConditionSpec(value=75)
    assert found.bsa_m2.mixture == [
        WeightedSpec(value=1.7, weight=2),
        WeightedSpec(value=2.0),
        WeightedSpec(low=1.8, high=1.9),
    ]
    assert found.view == ChoiceSpec(shares={"A4C": 1, "A2C": 3})
    assert found.sex == ChoiceSpec(value="F")
    assert found.edv_ml == ConditionsConfig().edv_ml
    assert found.stratify == StratifySpec("ef_percent", [30.0], [1.0, 1.0])
    config = load_config(str(path))
    assert config_from_dict(yaml.safe_load(config_to_yaml(config))) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ef_percent=[40,20]", "source.conditions.ef_percent: low is 40 and high is 20; low must be below high"),
        ("ef_percent=[40,20,10]", "conditions.ef_percent: got a list of 3, expected [low, high]"),
        ("ef_percent=120", "source.conditions.ef_percent.value: got 120, must lie in 1 .. 99"),
        ("ef_percent.mean=50", "source.conditions.ef_percent: a normal distribution needs mean and sd, got no sd"),
        ("ef_percent.low=50", "source.conditions.ef_percent: a uniform distribution needs high and low, got no high"),
        ("ef_percent={mean: 50, sd: 0}", "source.conditions.ef_percent.sd: got 0.0, must be above 0"),
        (
            "ef_percent={value: 50, low: 20}",
            "source.conditions.ef_percent: low contradicts a fixed distribution, which takes value",
        ),
        (
            "ef_percent={distribution: gauss, mean: 1}",
            "ef_percent.distribution: got 'gauss', allowed are fixed, uniform, normal, lognormal, mixture",
        ),
        (
            "ef_percent={mean: 50, sd: 1, low: 80, high: 90}",
            "a normal distribution of mean 50 and sd 1 leaves nothing between 80 and 90",
        ),
        (
            "edv_ml={distribution: lognormal, mean: -5, sd: 2}",
            "edv_ml.mean: got -5, a lognormal distribution needs a mean above 0",
        ),
        (
            "edv_ml.mixture=[{value: 90, weight: 0}]",
            "source.conditions.edv_ml.mixture[0].weight: got 0.0, must be above 0",
        ),
        ("edv_ml.mixture=[{low: 90, high: 80}]", "source.conditions.edv_ml.mixture[0]: low is 90 and high is 80"),
        ("view=A3C", "source.conditions.view: got 'A3C', allowed are A4C, A2C"),
        ("sex={F: -1}", "source.conditions.sex.shares.F: got -1.0, must be at least 0"),
        ("sex={F: 0}", "source.conditions.sex.shares: they sum to 0, at least one must be above 0"),
        ("sex={value: F, shares: {M: 1}}", "source.conditions.sex: value and shares contradict each other"),
        ("blood_pressure=120", "source.conditions.blood_pressure: unknown option; allowed are age_years"),
        ("ef_percent={vale: 3}", "source.conditions.ef_percent.vale: unknown option; allowed are distribution"),
        ("table=nowhere.csv", "source.conditions.table: nowhere.csv cannot be read: No such file or directory"),
        ("table_sha256=ab", "source.conditions.table_sha256: set, but source.conditions.table is empty"),
        ("stratify.edges=[3]", "source.conditions.stratify.condition: empty, but edges or shares are given"),
        ("stratify.condition=sex", "source.conditions.stratify.condition: got 'sex', allowed are ef_percent"),
        (
            "stratify={condition: ef_percent, edges: [50, 40], shares: [1, 1, 1]}",
            "source.conditions.stratify.edges: got [50.0, 40.0], must be at least one number, each above the one",
        ),
        (
            "stratify={condition: ef_percent, edges: [40], shares: [1]}",
            "source.conditions.stratify.shares: got 1 for 1 edges, which cut 2 strata",
        ),
        (
            "stratify={condition: ef_percent, edges: [40], shares: [1, 0]}",
            "source.conditions.stratify.shares[1]: got 0.0, must be above 0",
        ),
    ],
)
def test_conditions_that_cannot_be_drawn_are_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, conditions(text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


MIXTURE = (
    "students: {a: {blocks: 1}}\n"
    "source:\n"
    "  kind: mixture\n"
    "  parts:\n"
    "    real: {weight: 7, kind: recorded, path: /data}\n"
    "    made: {weight: 3, conditions: {ef_percent: [20, 40]}}\n"
)


def test_a_mixture_survives_its_own_dump_and_builds_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MIXTURE)
    config = load_config(str(path))
    assert config.source.parts["made"].conditions.ef_percent == ConditionSpec(low=20, high=40)
    dumped = yaml.safe_load(config_to_yaml(config))
    assert "conditions" not in dumped["source"]
    assert "conditions" not in dumped["source"]["parts"]["real"]
    again = config_from_dict(dumped)
    assert again == config
    assert hash(again.source) == hash(config.source)
    for other in ("source.parts.made.weight=4", "source.parts.made.conditions.ef_percent.low=25"):
        changed = load_config(str(path), [other])
        assert changed.source != config.source
        assert config_hash(changed) != config_hash(config)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("source.kind=phantom", "source.parts: set, but source.kind is phantom; only a mixture has parts"),
        ("source.path=/x", "source.path: set, but source.kind is mixture; give it to its parts"),
        ("source.conditions.ef_percent=30", "source.conditions: set, but source.kind is mixture; give it to its parts"),
        ("source.parts.made.kind=mixture", "source.parts.made.kind: got 'mixture', allowed are phantom, recorded"),
        ("source.parts.real.path=''", "source.parts.real.path: empty, but source.parts.real.kind is recorded"),
        (
            "source.parts.real.conditions.ef_percent=30",
            "source.parts.real.conditions: set, but source.parts.real.kind is recorded; videos have their own",
        ),
        ("source.parts.made.weight=0", "source.parts.made.weight: got 0.0, must be above 0"),
        ("source.parts.made-up.weight=1", "source.parts.made-up: a part's name may hold letters, digits and '_'"),
        ("source.cases_from=other", "source.cases_from: got 'other', allowed are made, real"),
        ("source.parts.made.conditions.view=PLAX", "source.parts.made.conditions.view: got 'PLAX', allowed are A4C"),
        ("source.parts.made.wieght=1", "source.parts.made.wieght: unknown option; allowed are conditions"),
    ],
)
def test_a_mixture_that_cannot_work_is_one_sentence(tmp_path: Path, override: str, words: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MIXTURE)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), [override])
    assert words in str(caught.value)


def test_a_mixture_needs_parts() -> None:
    with pytest.raises(ConfigError, match=r"source.parts: empty, but source.kind is mixture; name at least one part"):
        load_config(None, [ONE_STUDENT, "source.kind=mixture"])


def test_a_table_is_known_by_its_content(tmp_path: Path) -> None:
    one, copy = tmp_path / "one.csv", tmp_path / "copy.csv"
    for path in (one, copy):
        path.write_text("ef_percent\n35\n")
    first, second = (load_config(None, conditions(f"table={path}")) for path in (one, copy))
    assert len(first.source.conditions.table_sha256) == 64
    assert config_hash(first) == config_hash(second)
    assert config_from_dict(yaml.safe_load(config_to_yaml(first))) == first
    copy.write_text("ef_percent\n36\n")
    assert config_hash(load_config(None, conditions(f"table={copy}"))) != config_hash(first)


def test_a_long_plan_has_segments_that_end_at_checkpoints() -> None:
    config = load_config(
        None,
        [ONE_STUDENT, "train.steps=12000", "train.workers=2", "train.global_batch=8", "train.checkpoint_every=100"],
    )
    assert config.blocks_per_step == 2
    assert config.segment_steps == 2500
    assert config.num_segments == 5
    assert config.segment_steps % config.train.checkpoint_every == 0
    assert dataclasses.replace(config, data=DataConfig(segment_tasks=1000)).num_segments == 24
    assert config_hash(dataclasses.replace(config, data=DataConfig(segment_tasks=1000))) == config_hash(config)


def test_what_crosses_to_the_students_is_what_they_ask_for() -> None:
    plain = load_config(None, ["students.a={blocks: 1}", "students.b={blocks: 2}"])
    assert (plain.taught_classes, plain.taught_tasks) == (("LV",), ())
    assert plain.clip_bytes == 2 * 16 * 56 * 56 + 512
    wider = load_config(
        None,
        [
            "students.a={blocks: 1, classes: [LA, LV], tasks: [ef]}",
            "students.b={blocks: 2, classes: [LV, RA, LA], tasks: [phase, ef]}",
            "window.frames=32",
        ],
    )
    assert (wider.taught_classes, wider.taught_tasks) == (("LA", "LV", "RA"), ("ef", "phase"))
    assert wider.clip_bytes == 4 * 32 * 56 * 56 + 4 * 32 + 4 + 512
    assert wider.taught_ahead_bound < plain.taught_ahead_bound


def test_heads_change_the_hash_only_of_runs_that_have_them() -> None:
    plain = load_config(None, [ONE_STUDENT])
    spelled = load_config(None, [ONE_STUDENT, "students.a.classes=[LV]", "objective.ef_weight=5"])
    assert config_hash(spelled) == config_hash(plain)
    tasks = [ONE_STUDENT, "window.frames=32", "students.a.tasks=[ef]"]
    hashes = {
        config_hash(load_config(None, overrides))
        for overrides in (
            [ONE_STUDENT],
            [ONE_STUDENT, "students.a.classes=[LV, LA]"],
            [ONE_STUDENT, "students.a.classes=[LA, LV]"],
            tasks,
            [*tasks, "objective.ef_weight=5"],
        )
    }
    assert len(hashes) == 5


def test_objective_and_recipe_change_the_hash_only_of_runs_that_use_them() -> None:
    plain = config_hash(load_config(None, [ONE_STUDENT]))
    assert config_hash(load_config(None, [ONE_STUDENT, "students.a.objective={bce: {}}"])) == plain
    others = (
        "students.a.objective={bce: {weight: 2}}",
        "students.a.objective={kl: {}}",
        "students.a.objective={kl: {temperature: 4}}",
        "students.a.objective={bce: {}, kl: {}}",
        "optimizer.kind=adamw",
        "optimizer.schedule=linear",
        "train.ema_decay=0.9",
    )
    hashes = {config_hash(load_config(None, [ONE_STUDENT, other])) for other in others}
    assert len(hashes | {plain}) == len(others) + 1


def test_a_teacher_must_give_what_the_students_ask_for() -> None:
    config = load_config(None, [ONE_STUDENT, "students.b.classes=[LV, LA, RV]"])
    check_teacher_gives(config, ("background", "RV", "LV", "LA"))
    words = r"students.b.classes: got LA, RV, but the teacher \(teacher.kind embedded\) gives LV"
    with pytest.raises(ConfigError, match=words):
        check_teacher_gives(config, ("background", "LV"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["evaluation.judge=gpt"],
            "evaluation.judge: got 'gpt', allowed are embedded, embedded_wild, echoclip, echoprime, panecho, onnx",
        ),
        (
            ["evaluation.judge_weights=/w", "evaluation.judge=embedded_wild"],
            "evaluation.judge_weights: set, but evaluation.judge is embedded_wild",
        ),
        (["evaluation.judge_phase_sign=0"], "evaluation.judge_phase_sign: got 0, allowed are -1, 1"),
        (["evaluation.judge_prompts.wall=' '"], "evaluation.judge_prompts.wall: empty, expected a caption"),
        (["evaluation.judge_prompts.ef=[EF IS HIGH]"], "expected sentences with <#> in place of the number"),
        (["evaluation.judge_prompts.door=x"], "evaluation.judge_prompts.door: unknown option; allowed are ef, left_ve"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [ONE_STUDENT, *overrides])
    assert words in str(caught.value)


def test_the_judge_s_questions_are_part_of_a_run_s_identity_and_its_path_is_not() -> None:
    judged = load_config(None, [ONE_STUDENT, "evaluation.judge=echoclip"])
    moved = load_config(None, [ONE_STUDENT, "evaluation.judge=echoclip", "evaluation.judge_weights=/elsewhere"])
    assert config_hash(moved) == config_hash(judged) != config_hash(load_config(None, [ONE_STUDENT]))
    for other in ("judge_controls=true", "judge_phase_sign=1", "judge_prompts.wall=MUSCLE"):
        changed = load_config(None, [ONE_STUDENT, "evaluation.judge=echoclip", f"evaluation.{other}"])
        assert config_hash(changed) != config_hash(judged), other


@pytest.mark.parametrize(
    ("override", "option"),
    [
        ("limited.sites=[{a: 1}, clear]", "limited.sites"),
        ("students.a.classes=[[LV]]", "students.a.classes"),
        ("teacher.outputs=[{a: 1}]", "teacher.outputs"),
        ("source.domain={a: 1}", "source.domain"),
        ("study.variants={a: [[x]], b: []}", "study.variants"),
    ],
)
def test_a_list_of_names_holds_names(override: str, option: str) -> None:
    """OmegaConf takes a mapping or a list where a list of text is declared; each check would meet it on its own."""
    with pytest.raises(ConfigError, match=re.escape(option)):
        load_config(None, ["students.a.blocks=2", override])


@pytest.mark.parametrize(
    ("overrides", "students"),
    [
        (["students={c11: {blocks: 1}}"], ["c11"]),
        (["students.c11={blocks: 1}"], ["convlstm_3x1", "convlstm_2x1", "c11"]),
        (["students={a: {}}", "students.b.blocks=1"], ["a", "b"]),
        (["students.b.blocks=1", "students={a: {}}"], ["a"]),
    ],
)
def test_a_mapping_that_is_given_replaces_and_a_dotted_name_adds(overrides: list[str], students: list[str]) -> None:
    assert list(load_config("configs/demo.yaml", overrides).students) == students


def test_every_mapping_and_distribution_that_is_given_replaces_and_a_section_is_merged(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "students: {a: {objective: {bce: {}, dice: {}}}}\n"
        "source: {conditions: {heart_rate_bpm: {mean: 100, sd: 8}, view: {A4C: 0.5, A2C: 0.5}}}\n"
        "train: {steps: 7, workers: 2}\n"
    )
    given = ["students.a.objective={kl: {}}", "source.conditions.heart_rate_bpm=90", "source.conditions.view=A2C"]
    config = load_config(str(path), [*given, "train={steps: 9}"])
    assert list(config.students["a"].objective) == ["kl"]
    assert config.source.conditions.heart_rate_bpm == ConditionSpec(value=90)
    assert config.source.conditions.view == ChoiceSpec(value="A2C")
    assert (config.train.steps, config.train.workers) == (9, 2)
    other = load_config(str(path), ["source.conditions.heart_rate_bpm={low: 50, high: 60}"])
    assert other.source.conditions.heart_rate_bpm == ConditionSpec(low=50, high=60)
