"""Options declared once: what is derived from a declaration, and that every option of a run has a sound one."""

from dataclasses import dataclass, field

import pytest

from echodfkd.config.rules.values import check_options
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import Declaration, option, replace_options, walk
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.teacher import MemberConfig, TeacherConfig
from echodfkd.core.errors import ConfigError


@dataclass(frozen=True)
class Part:
    share: float = option(0.5, least=0, below=1)
    file: str = option("", path="input")


@dataclass(frozen=True)
class Whole:
    steps: int = option(3, least=1, most=9)
    rate: float = option(1.0, above=0)
    depth: int = option(0, most=4)
    gpus: float = option(0.0, least=0, ceiling=9, whole_above_1=True)
    folder: str = option("", path="output")
    kind: str = option("a", choices=("", "a", "b"))
    label: str = option("", pattern="(x=.+)?", expected="x=VALUE")
    weights: dict[str, float] = option(factory=dict, above=0)
    part: Part = field(default_factory=Part)
    parts: dict[str, Part] = field(default_factory=dict)
    rows: list[Part] = field(default_factory=list)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (Whole(steps=0), r"^steps: got 0, must lie in 1 \.\. 9$"),
        (Whole(steps=10), r"^steps: got 10, must lie in 1 \.\. 9$"),
        (Whole(rate=0.0), r"^rate: got 0\.0, must be above 0$"),
        (Whole(rate=float("nan")), r"^rate: got nan, must be above 0$"),
        (Whole(depth=5), r"^depth: got 5, must be at most 4$"),
        (Whole(gpus=-1.0), r"^gpus: got -1\.0, must be at least 0$"),
        (Whole(gpus=10.0), r"^gpus: got 10\.0, must be at most 9$"),
        (Whole(gpus=1.5), r"^gpus: got 1\.5, must be a whole number if it is above 1$"),
        (Whole(folder=" x"), r"^folder: got ' x', must not begin or end with a blank$"),
        (Whole(folder="~x"), r"^folder: got '~x', ~ is not expanded"),
        (Whole(folder="memory://x"), r"^folder: got 'memory://x', every process has a memory:// of its own"),
        (Whole(kind="c"), r"^kind: got 'c', allowed are a, b$"),
        (Whole(label="y=1"), r"^label: got 'y=1', expected x=VALUE$"),
        (Whole(weights={"n": -1.0}), r"^weights\.n: got -1\.0, must be above 0$"),
        (Whole(part=Part(share=1.0)), r"^part\.share: got 1\.0, must lie in 0 <= value < 1$"),
        (Whole(parts={"n": Part(share=-0.5)}), r"^parts\.n\.share: got -0\.5, must lie in 0 <= value < 1$"),
        (Whole(rows=[Part(), Part(share=2.0)]), r"^rows\[1\]\.share: got 2\.0, must lie in 0 <= value < 1$"),
    ],
)
def test_bounds_and_choices_hold_wherever_an_option_stands(section: Whole, words: str) -> None:
    check_options(Whole(kind="", label="x=1", depth=-3, weights={"n": 0.1}, rows=[Part()]))
    with pytest.raises(ConfigError, match=words):
        check_options(section)


def test_every_path_is_found_and_nothing_else_is_touched() -> None:
    def shout(declared: Declaration, value: object) -> object:
        return f"/{value}" if declared.path and value else value

    section = Whole(label="x=1", part=Part(file="a"), parts={"n": Part(file="b")}, rows=[Part(file="c"), Part()])
    changed = Whole(label="x=1", part=Part(file="/a"), parts={"n": Part(file="/b")}, rows=[Part(file="/c"), Part()])
    assert replace_options(section, shout) == changed


def test_every_option_of_a_run_is_declared_soundly() -> None:
    teacher = TeacherConfig(members={"a": MemberConfig()})
    config = RunConfig(teacher=teacher, students={"a": StudentConfig()})
    check_options(config)  # the defaults keep to their own bounds
    for name, declared, value in walk(config):
        if declared.path:
            assert declared.path in ("input", "output"), name
            assert isinstance(value, str), name
        assert bool(declared.pattern) == bool(declared.expected), name
