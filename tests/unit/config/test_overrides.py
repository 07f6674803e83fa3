"""Random and odd overrides: each is refused in one sentence, or gives a config whose parts are soon made."""

import dataclasses
import random
import resource
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from echodfkd.config.file import load_config
from echodfkd.config.rules.jobs import needs_models, needs_students
from echodfkd.config.rules.types import declared_types
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import declaration
from echodfkd.config.sections.source import LIMITS, MixturePart
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.teacher import MemberConfig, TeacherConfig
from echodfkd.config.study import study_groups
from echodfkd.core.errors import ConfigError, EchoDFKDError
from echodfkd.sources.build import build_source, check_drawn_sources
from echodfkd.sources.phantom.domains import DOMAIN_NAMES

ONE = "students.a.blocks=2"


def leaves(section: Any, name: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Dotted names of all options of a section's class, and values that look right: choices, and the ends of bounds."""
    for field in dataclasses.fields(section):
        kind, own, declared = declared_types(section)[field.name], f"{name}{field.name}", declaration(field)
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{own}.")
            continue
        fitting = [
            *declared.choices,
            *(end for end in (declared.least, declared.most, declared.ceiling) if end is not None),
        ]
        fitting += [True, False] if kind is bool else [] if field.default is dataclasses.MISSING else [field.default]
        yield own, tuple("null" if value is None else str(value) for value in fitting) or ("1",)


NESTED = {
    "students.a.": (StudentConfig, []),
    "teacher.members.m.": (MemberConfig, ["teacher.kind=ensemble", "teacher.members.n.kind=embedded"]),
    "source.parts.p.": (MixturePart, ["source.kind=mixture"]),
    "study.teachers.t.": (TeacherConfig, []),
}
PLACES = [(name, fitting, []) for name, fitting in leaves(RunConfig)]
PLACES += [(*leaf, extra) for start, (section, extra) in NESTED.items() for leaf in leaves(section, start)]

ODD = (
    "-1|0|1|2|-0.5|0.5|1.5|1e3|1e18|1e300|1e-300|1e-320|.nan|.inf|-.inf|''|' '|null|[]|{}|true|false|abc|[1,2]|{a: 1}"
    "|[a,b]|[{a: 1}]|{a: {b: []}}|9007199254740993|4503599627370496|1000000000|2147483648|65536|1024|0x10|1_0|017|yes"
    "|off"
    '|1:30|2024-01-01|"\\u202e"|x.y|"a\\nb"|../../etc/passwd|~/x|~|memory://x|s3://a:b@c|CON|nul|a.|${oc.env:HOME}|${x'
    "|${seed}|!!python/object/apply:os.system [id]|*a|&a 1|&a [*a]|é|-9007199254740992|3|8|32|64|100|'-'|[[[[1]]]]|<<"
).split("|")


def random_overrides(rng: random.Random, count: int) -> Iterator[list[str]]:
    """Overrides of one to three options, now and then at a deep or misspelt name."""
    for _ in range(count):
        given = [ONE]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            name, fitting, extra = rng.choice(PLACES)
            name = rng.choice((name,) * 12 + (name + ".x", name[:-1], "a." * rng.randint(1, 80) + "b"))
            given += [*extra, f"{name}={rng.choice(rng.choice((ODD, fitting, fitting)))}"]
        yield given


class TooLongError(Exception):
    """An override took longer than it may."""


def try_out(given: list[str], seconds: int) -> str:
    """ "" if the config can start, else the sentence that refuses it. Raises `TooLongError`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError(" ".join(given))

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        config = load_config(None, given)
        needs_students(config)
        check_drawn_sources(config)
        study_groups(config)
        for source in (config.source, config.evaluation.source):
            small = dataclasses.replace(config.window, size=min(config.window.size, 64))
            if {part.kind for part in (source, *source.parts.values())} <= {"phantom", "mixture"}:
                build_source(source, small, seed=config.seed, case_frames=min(config.evaluation.frames, 64))
    except EchoDFKDError as error:
        return str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return ""


def run_overrides(seed: int, count: int) -> tuple[int, int]:
    """(refused, accepted) of so many random overrides; anything but a sentence is an error of the test."""
    refused = 0
    for given in random_overrides(random.Random(seed), count):
        sentence = try_out(given, seconds=20)
        assert sentence.isprintable()
        assert not sentence or len(sentence) > 15, given
        refused += bool(sentence)
    return refused, count - refused


def test_random_overrides_are_refused_in_a_sentence_or_can_start() -> None:
    refused, accepted = run_overrides(seed=1, count=150)
    assert refused > 80
    assert accepted > 8


@pytest.mark.slow
def test_many_random_overrides_are_refused_in_a_sentence_or_can_start() -> None:
    refused, accepted = run_overrides(seed=2, count=2_500)
    assert refused > 1_000
    assert accepted > 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3 << 20  # KiB; most of it is torch


def test_every_number_has_an_upper_bound() -> None:
    """Above it lies a slip of the pen, or more than a machine has. Conditions have theirs in `LIMITS`."""
    sections = [RunConfig, *(section for section, _ in NESTED.values())]
    seen, unbounded = set(), []
    while sections:
        section = sections.pop()
        for field in dataclasses.fields(section):
            kind, declared = declared_types(section)[field.name], declaration(field)
            inner = [kind, *getattr(kind, "__args__", ())]
            sections += [part for part in inner if dataclasses.is_dataclass(part) and part not in seen]
            if {int, float} & set(inner) and not declared.choices:
                bounded = {declared.most, declared.below, declared.ceiling} != {None}
                unbounded += [] if bounded else [f"{section.__name__}.{field.name}"]
        seen.add(section)
    by_limits = {f"NumberSpec.{name}" for name in ("value", "low", "high")}
    kinds = {name.replace(old, "NumberSpec") for name in unbounded for old in ("WeightedSpec", "ConditionSpec")}
    assert {name for name in kinds if "Spec." not in name or name.startswith("NumberSpec.")} == by_limits, unbounded
    assert all(low < high for low, high in LIMITS.values())


REFUSED = {
    "storage=": "storage: got nothing (null), expected text; the empty text is written ''",
    "storage=''": "storage: got '', expected a folder or an fsspec URL",
    "storage=' '": "storage: got ' ', must not begin or end with a blank",
    "storage=~/runs": "storage: got '~/runs', ~ is not expanded, because machines differ in it; write the whole path",
    "teacher.cache=~/c": "teacher.cache: got '~/c', ~ is not expanded",
    "storage=true": "storage: got true, expected text; put it in quotes if it is meant as text",
    "storage=1e3": "storage: got 1000.0, expected text; put it in quotes",
    "storage=memory://x": "storage: got 'memory://x', every process has a memory:// of its own",
    "teacher.cache=simplecache::memory://x": "every process has a memory:// of its own",
    "name=CON": "name: got 'CON', expected up to 100 letters",
    "name=nul.txt": "name: got 'nul.txt', expected up to 100 letters",
    "name=a.": "name: got 'a.', expected up to 100 letters",
    "students.con.blocks=2": "students.con: a student's name may hold",
    "study.variants={lpt1: []}": "study.variants.lpt1: got ; expected a name",
    "evaluation.frames=1000000": "evaluation.frames: got 1000000, must be at most 4096",
    "evaluation.frames=4096 window.size=1024": "evaluation.frames: 4096 frames of 1024 x 1024 (window.size) are 42949",
    "train.threads=1000000000": "train.threads: got 1000000000, must be at most 1024",
    "evaluation.threads=2147483648": "evaluation.threads: got 2147483648, must be at most 1024",
    "window.fps=1e-9": "window.fps: got 1e-09, must be 0 (each clip's own) or at least 1",
    "window.fps=1 evaluation.frames=1000": "evaluation.frames: got 1000, which last 1000 s at window.fps=1, at most",
    "seed=-1": "seed: got -1, must be at least 0",
    "source.seed_offset=-5": "source.seed_offset: got -5, must be at least 0",
    "source.domain=x": "source.domain: got 'x', allowed are default, clear, handheld, wild",
    "evaluation.source.domain=x": "evaluation.source.domain: got 'x', allowed are default, clear, handheld, wild",
    "limited.sites=[default,x]": "limited.sites[1]: got 'x', allowed are default, clear, handheld, wild",
    "optimizer.learning_rate=1:30": "optimizer.learning_rate: got '1:30', expected a number",
    "train.max_failures=1:30": "train.max_failures: got '1:30', expected a whole number",
    "train.steps=017": "train.steps: got '017', expected a whole number",
    "train.steps=1_0": "train.steps: got '1_0', expected a whole number",
    "train.steps=0x10": "train.steps: got '0x10', expected a whole number",
    "train.steps=1.5": "train.steps: got 1.5, expected a whole number",
    "train.steps=true": "train.steps: got true, expected a whole number",
    "ray.keep_memory=-1": "ray.keep_memory: got -1, expected true or false",
    "ray.keep_memory=yes": "ray.keep_memory: got 'yes', expected true or false",
    "ray.keep_memory=1": "ray.keep_memory: got 1, expected true or false",
    "optimizer.learning_rate=1e9": "optimizer.learning_rate: got 1000000000.0, must be at most 10",
    "teacher.num_gpus=1.5": "teacher.num_gpus: got 1.5, must be a whole number if it is above 1",
    "study.variants={a: [train.steps=-1], b: [nope=1]}": "study.variants.a: train.steps: got -1, must be at least 1",
    "study.variants={b: [nope=1]}": "study.variants.b: nope: unknown option",
    "synthesize.clips=1000000000": "synthesize.shard_clips: got 16, which makes 62500000 shards",
    "synthesize.frames=4096 synthesize.shard_clips=1000 synthesize.clips=1000": "are 12845056000 bytes in one task",
    "students={a: {}, a: {}}": "the name a stands twice",
    "train={1: 2}": "the key 1 is no text; put it in quotes",
    "train=null": "train: got nothing (null), expected names with values",
    "data.order=no": "data.order: got 'no', allowed are fixed, arrival",
    "students.a.classes=LV": "students.a.classes: got 'LV', expected a list",
}  # fmt: skip


@pytest.mark.parametrize("overrides", REFUSED)
def test_nonsense_is_refused_by_name(overrides: str) -> None:
    words = overrides.split(" ") if not any(c in overrides for c in "{'[") else [overrides]
    with pytest.raises(ConfigError) as caught:
        load_config(None, [ONE, *words])
    assert REFUSED[overrides] in str(caught.value)


def test_a_secret_in_a_refused_value_is_hidden_before_it_is_cut() -> None:
    url = f"https://me:{'s3cret-' * 20}@host"
    for text in (
        f"train.steps={url}",
        f"train.steps={url}\x07",
        f"{url}",
        "a." * 20 + f"b={url}",
        f"name={url}" + "x" * 5000,
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [ONE, text])
        assert "s3cret" not in str(caught.value)


def test_what_looks_like_a_number_is_one_and_text_stays_text() -> None:
    config = load_config(None, [ONE, "train.steps=1e3", "optimizer.learning_rate=1", "name=42", "source.split=017"])
    assert (config.train.steps, config.optimizer.learning_rate, config.name) == (1000, 1.0, "42")
    assert config.source.split == "017"
    assert isinstance(config.train.steps, int)
    assert isinstance(config.optimizer.learning_rate, float)


def test_the_environment_is_read_where_the_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_STEPS", "7")
    assert load_config(None, [ONE, "train.steps=${oc.env:SOME_STEPS}", "seed=${train.steps}"]).seed == 7
    with pytest.raises(ConfigError, match=r"Environment variable 'NO_SUCH' not found"):
        load_config(None, [ONE, "name=${oc.env:NO_SUCH}"])


@pytest.mark.parametrize("dots", [60, 200, 5000])
def test_a_deep_name_is_refused_at_once(dots: int) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError, match=f"{dots + 1} names deep, at most 16 are read"):
        load_config(None, ["a." * dots + "b=1"])
    assert time.process_time() - started < 1.0


def test_many_students_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="students: got 1000 entries, at most 256 are allowed"):
        load_config(None, ["students={" + ", ".join(f"s{n}: {{}}" for n in range(1000)) + "}"])


def test_the_scanners_of_the_options_are_those_of_the_phantom() -> None:
    declared = next(f for f in dataclasses.fields(MixturePart) if f.name == "domain")
    assert declaration(declared).choices == tuple(DOMAIN_NAMES)


def test_a_job_s_dry_run_refuses_what_the_job_would_refuse() -> None:
    config = load_config(None, [ONE, "evaluate.out=x", "evaluate.masks=/m", "window.fps=0"])
    with pytest.raises(ConfigError, match=r"evaluate.masks: set, but evaluation.source.kind is phantom"):
        needs_models(config)
    with pytest.raises(ConfigError, match=r"^evaluate: name a folder to write"):
        needs_models(load_config(None, [ONE]))
    with pytest.raises(ConfigError, match=r"window.size: got 60, must be a multiple of 8 because teacher.kind is emb"):
        needs_students(load_config(None, [ONE, "window.size=60"]))
    stratum = "evaluation.source.conditions.stratify={condition: ef_percent, edges: [98.99], shares: [1, 1]}"
    given = [ONE, stratum, "evaluation.source.conditions.ef_percent=[20,40]"]
    with pytest.raises(ConfigError, match=r"^evaluation.source.conditions.stratify.shares\[1\]: no patient of"):
        check_drawn_sources(load_config(None, given))
    long = load_config(None, [ONE, f"name={'n' * 99}"])
    with pytest.raises(ConfigError, match="name: got 'nnn"):
        study_groups(long)
