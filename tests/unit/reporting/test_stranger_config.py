"""The config of a run folder is a stranger's: overlays are drawn again without one path, host or download of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import walk
from echodfkd.config.sections.source import SourceConfig
from echodfkd.config.sections.teacher import MemberConfig, TeacherConfig
from echodfkd.core.errors import EchoDFKDError, InputError
from echodfkd.reporting.live import redraw
from jobs import report
from tests.unit.reporting.test_reporting import fake_run

SHA = "0" * 64
PIXELS = {"pixel_mean": [0.0], "pixel_std": [1.0]}


class BuiltError(Exception):
    """Carries the config that a scorer was to be built from."""


@pytest.fixture
def redrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Redraw with a changed config.yaml. Raises `BuiltError` if source and teacher were to be made."""

    def build(config: RunConfig, device: str) -> None:
        raise BuiltError(config)

    monkeypatch.setattr(redraw, "run_scorer", build)
    storage = fake_run(tmp_path / "run")

    def call(own: RunConfig | None = None, **sections: Any) -> None:
        values = yaml.safe_load(storage.read("config.yaml"))
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        storage.write("config.yaml", yaml.safe_dump(values).encode())
        redraw.redraw_overlays(storage, 1, print, own)

    return call


@pytest.mark.parametrize(
    ("sections", "option"),
    [
        (
            {"teacher": {"kind": "exported", "weights": "run/t.pt2", "sha256": SHA, **PIXELS}},
            "teacher.kind to 'exported'",
        ),
        ({"teacher": {"kind": "python", "weights": "t.py", **PIXELS}}, "teacher.kind to 'python'"),
        ({"teacher": {"kind": "onnx", "weights": "/t.onnx", **PIXELS}}, "teacher.weights to '/t.onnx'"),
        ({"teacher": {"kind": "recorded", "weights": "s3://b/masks"}}, "teacher.weights to 's3://b/masks'"),
        (
            {"teacher": {"kind": "remote", "remote": {"url": "http://127.0.0.1:9", "token_file": "/etc/hostname"}}},
            "teacher.kind to 'remote'",
        ),
        ({"teacher": {"reference": "/dev/zero"}}, "teacher.reference to '/dev/zero'"),
        (
            {"teacher": {"kind": "ensemble", "members": {"a": {}, "b": {"kind": "embedded", "weights": "/x"}}}},
            "teacher.members.b.weights to '/x'",
        ),
        (
            {"evaluation": {"source": {"conditions": {"table": "/etc/passwd.csv"}}}},
            "evaluation.source.conditions.table",
        ),
        ({"evaluation": {"source": {"kind": "recorded", "path": "/home"}}}, "evaluation.source.path to '/home'"),
        (
            {
                "evaluation": {
                    "source": {"kind": "mixture", "parts": {"a": {}, "b": {"kind": "camus", "path": "ftp://x"}}}
                }
            },
            "evaluation.source.parts.b.path to 'ftp://x'",
        ),
    ],
)
def test_no_path_of_a_run_folder_is_used(redrawn: Callable[..., Any], sections: dict[str, Any], option: str) -> None:
    with pytest.raises(InputError) as caught:
        redrawn(**sections)
    sentence = str(caught.value)
    assert f"run/config.yaml sets {option}" in sentence
    assert "a run folder may be a stranger's" in sentence
    assert "add --config FILE to the command" in sentence


def paths_of(section: Any, name: str) -> list[str]:
    return [option for option, declared, _ in walk(section, name) if declared.path or declared.address]


EVERY_PATH = [
    *paths_of(TeacherConfig(members={"a": MemberConfig(), "b": MemberConfig()}), "teacher"),
    *paths_of(SourceConfig(), "evaluation.source"),
]


@pytest.mark.parametrize("option", EVERY_PATH)
def test_each_declared_path_is_refused_or_left_out(option: str) -> None:
    section, *inner, last = option.split(".")
    value: Any = {last: "/nowhere"}
    for key in reversed(inner):
        value = {key: value}
    try:
        config = redraw.harmless_config({"students": {"a": {}}, section: value}, "run/config.yaml")
    except EchoDFKDError:
        return
    assert option == "teacher.cache"
    assert config.teacher.cache == ""


def test_a_cache_and_a_judge_of_the_folder_are_left_out(redrawn: Callable[..., Any]) -> None:
    evaluation = {"judge": "echoclip", "judge_weights": "hf-hub:someone/else", "judge_captions": "/captions"}
    with pytest.raises(BuiltError) as caught:
        redrawn(teacher={"cache": "/cache"}, evaluation=evaluation)
    (config,) = caught.value.args
    assert config.teacher.cache == ""
    assert config.evaluation.judge == "none"
    assert config.evaluation.judge_weights == config.evaluation.judge_captions == ""


def test_the_users_own_config_is_obeyed(redrawn: Callable[..., Any], tmp_path: Path) -> None:
    own = RunConfig(teacher=TeacherConfig(kind="recorded", weights="/mine"))
    with pytest.raises(BuiltError) as caught:
        redrawn(own, teacher={"kind": "remote", "remote": {"url": "http://127.0.0.1:9"}})
    assert caught.value.args[0].teacher == own.teacher


def test_the_command_takes_the_users_config(
    redrawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("students: {a: {}}\nteacher: {kind: recorded, weights: /mine}")
    command = ["report.py", str(tmp_path / "run"), "--config", str(tmp_path / "own.yaml")]
    monkeypatch.setattr("sys.argv", command)
    assert report.main() == 2
    assert "--overlays: 0, allowed are 0 to 50 (with --config 1 to 50)" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*command, "--overlays", "1"])
    with pytest.raises(BuiltError) as caught:
        report.main()
    assert caught.value.args[0].teacher.weights == "/mine"


def test_every_option_that_is_named_like_a_path_is_declared_as_one() -> None:
    """Paths, addresses and files are found by their declaration: one that lacks it would be obeyed."""
    like = ("path", "file", "url", "weights", "table", "cache", "storage", "out", "run", "pilot", "masks", "initial")
    like += ("reference", "captions", "annotations", "init_from")
    config = RunConfig(teacher=TeacherConfig(members={"a": MemberConfig()}))
    for option, declared, _ in walk(config):
        last = option.rpartition(".")[2]
        if any(last == word or last.endswith(f"_{word}") for word in like):
            assert declared.path or declared.address, option
