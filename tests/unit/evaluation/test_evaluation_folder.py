"""An evaluation goes on where it ended, and takes a run's own options without obeying a stranger's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from echodfkd.config.evaluated import changes_of, run_options, window_notes
from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import CaseScore, VideoClip
from echodfkd.evaluation.agreement import JudgedMask
from echodfkd.evaluation.folder import EvaluationFolder
from echodfkd.evaluation.scorer import ModelScorer, ScoredCase
from echodfkd.models.students.build import build_student
from echodfkd.runtime.evaluation_run import evaluate
from echodfkd.storage.checkpoints import OptimizerState, StudentState, publish
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.schemas import case_row

OWN = [
    "students.a={blocks: 1, filters: 2}", "name=run", "seed=5", "window.size=24", "window.frames=4", "window.fps=25",
    "evaluation.cases=3", "evaluation.frames=8", "evaluation.threshold=0.4", "evaluation.judge=none",
    "evaluation.source.domain=handheld", "evaluation.actors=3",
]  # fmt: skip


def write_run(root: Path, *options: str) -> Path:
    config = load_config(None, [*OWN, f"storage={root}", *options])
    storage = RunStorage(config.root)
    storage.write("config.yaml", config_to_yaml(config).encode())
    publish_student(storage, config, 5)
    return root / "run"


def publish_student(storage: RunStorage, config: RunConfig, step: int) -> None:
    torch.manual_seed(step)
    weights = build_student(**config.students["a"].network).state_dict()
    students = {"a": StudentState(dict(weights), OptimizerState(step, {}, {}))}
    publish(storage, step=step, students=students, consumed=Intervals(()), ledger={}, quarantine={}, meta={})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("storage"))


def asked(run: Path, *overrides: str) -> RunConfig:
    """As jobs/evaluate.py reads its command."""
    return load_config(None, [f"evaluate.run={run}", "evaluate.out=out", *overrides], below=run_options)


def test_a_runs_own_options_are_the_defaults_and_one_line_says_what_is_changed(run: Path) -> None:
    config = asked(run)
    assert (config.window.size, config.window.frames, config.window.fps) == (24, 4, 25.0)
    assert (config.seed, config.evaluation.cases, config.evaluation.threshold) == (5, 3, 0.4)
    assert (config.evaluation.source.domain, config.evaluation.judge, config.name) == ("handheld", "none", "run")
    assert config.evaluation.actors == 1  # of the machine, not of the numbers
    assert changes_of(config) == (f"seed, window, evaluation and teacher are those of {run}; changed here: nothing")
    changed = asked(run, "window.size=56", "evaluation.cases=24")  # 56 is what an empty config says
    assert (changed.window.size, changed.window.frames, changed.evaluation.cases) == (56, 4, 24)
    told = "changed here: window.size=56 (there: 24), evaluation.cases=24 (there: 3)"
    assert changes_of(changed).endswith(told)
    assert run_options({}) == {}


def test_students_warn_of_a_size_and_a_rate_that_they_were_not_trained_at(run: Path, tmp_path: Path) -> None:
    slower = "the student a runs at 20 frames a second and was trained at 25 frames a second"
    larger = "the student a runs at 56 pixels and was trained at 24"
    assert window_notes(asked(run)) == []
    assert window_notes(asked(run, "window.size=56", "window.fps=20")) == [larger, slower]
    resizes = write_run(tmp_path, "students.a.side=24")
    assert window_notes(asked(resizes, "window.size=56", "window.fps=20")) == [slower]
    said: list[str] = []
    small = ["window.size=16", "evaluation.cases=1", f"evaluate.out={tmp_path / 'out'}", "evaluate.teacher=false"]
    evaluate(asked(run, *small), said.append)
    note = "the student a runs at 16 pixels and was trained at 24"
    assert f"note: {note}" in said
    assert json.loads((tmp_path / "out" / "run.json").read_text())["source_notes"][0] == note


def test_a_file_of_the_user_lies_above_the_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("window: {size: 32}\n")
    config = load_config(str(tmp_path / "mine.yaml"), [f"evaluate.run={run}", "evaluate.out=out"], below=run_options)
    assert (config.window.size, config.window.frames) == (32, 4)


@pytest.mark.parametrize(
    ("changes", "overrides", "kept"),
    [
        ({"teacher": {"kind": "remote", "remote": {"url": "http://127.0.0.1:1", "token_file": "/etc/passwd"}}}, [], {}),
        ({"teacher": {"kind": "onnx", "weights": "/x.onnx", "pixel_mean": [0.0], "pixel_std": [1.0]}}, [], {}),
        ({"teacher": {"cache": "/elsewhere"}}, [], {}),
        ({"teacher": {"kind": "embedded_chambers"}}, [], {"teacher.kind": "embedded_chambers"}),
        ({"teacher": {"kind": "embedded_chambers"}}, ["teacher.kind=embedded"], {}),
        ({"evaluation": {"judge": "echoclip", "judge_weights": "hf-hub:evil/judge"}}, [],
         {"evaluation.judge": "embedded"}),
        ({"evaluation": {"source": {"kind": "recorded", "path": "/data", "split": "TEST"}}},
         ["evaluation.source.path=/mine", "evaluation.source.kind=recorded"], {"evaluation.source.split": "TRAIN"}),
        ({"evaluation": {"source": {"kind": "recorded", "path": "https://evil.example/x", "split": "TEST"}}},
         ["evaluation.source.path=/mine"], {"evaluation.source.split": "TEST", "evaluation.source.path": "/mine"}),
        ({"storage": "/elsewhere", "evaluate": {"out": "/elsewhere"}, "ray": {"address": "evil:1"}}, [], {}),
    ],
)  # fmt: skip
def test_nothing_that_names_a_file_or_a_host_is_taken(
    run: Path, tmp_path: Path, changes: dict[str, Any], overrides: list[str], kept: dict[str, Any]
) -> None:
    other = tmp_path / "run"
    other.mkdir()
    values = yaml.safe_load((run / "config.yaml").read_text())
    for section, new in changes.items():
        if isinstance(new, dict):
            values[section] = {**values[section], **new}
        else:
            values[section] = new
    (other / "config.yaml").write_text(yaml.safe_dump(values))
    config = asked(other, *overrides)
    text = config_to_yaml(config)
    assert "evil" not in text
    assert "elsewhere" not in text
    assert "passwd" not in text
    assert "x.onnx" not in text
    usual = {"teacher.kind": "embedded", "evaluation.source.path": "", "storage": "runs", "ray.address": "auto"}
    usual["evaluation.source.path"] = "/mine" if overrides and "path" in overrides[0] else ""
    for name, value in {**usual, **kept}.items():
        found: Any = config
        for key in name.split("."):
            found = getattr(found, key)
        assert found == value, name


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^evaluate.run: .* is not a run folder: it holds no config.yaml"):
        asked(tmp_path)


def stops_after(cases: int) -> tuple[Callable[[RunConfig], ModelScorer], list[int]]:
    """A scorer that is interrupted after so many cases, and the numbers of those that it was asked for."""
    scored: list[int] = []

    class Interrupted(ModelScorer):
        def score_all(self, numbers: Sequence[int]) -> Iterator[ScoredCase]:
            for number in numbers:
                if len(scored) == cases:
                    raise KeyboardInterrupt
                scored.append(number)
                yield self.score(number)

    return Interrupted, scored


def rows_of(folder: Path) -> list[tuple[object, ...]]:
    from echodfkd.reporting.rows import read_rows

    found = read_rows(RunStorage(str(folder))).scores.to_pylist()
    return sorted((row["clip_id"], row["student"], row["step"], row["metric"], repr(row["value"])) for row in found)


def test_the_same_command_scores_the_cases_that_it_lacks_and_another_is_refused(run: Path, tmp_path: Path) -> None:
    options = ["evaluation.cases=2"]
    whole = evaluate(asked(run, f"evaluate.out={tmp_path}/whole", *options), lambda line: None)
    config = asked(run, f"evaluate.out={tmp_path}/out", *options)
    scorer, first = stops_after(1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, lambda line: None, scorer)
    (kept,) = (tmp_path / "out/scores").iterdir()
    before = kept.read_bytes()
    lines: list[str] = []
    scorer, second = stops_after(9)
    summary = evaluate(config, lines.append, scorer)
    assert (first, second) == ([0], [1])
    assert kept.read_bytes() == before
    assert "1 of 2 cases are scored already" in lines
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    assert summary["students"] == whole["students"]
    scorer, third = stops_after(9)
    assert evaluate(config, lines.append, scorer)["students"] == summary["students"]
    assert third == []
    with pytest.raises(InputError, match=r"out holds another evaluation, whose evaluation.json differs in config_hash"):
        evaluate(asked(run, f"evaluate.out={tmp_path}/out", *options, "evaluation.threshold=0.5"), print)
    with pytest.raises(InputError, match=r"differs in evaluate, teacher_id; name another folder"):
        evaluate(asked(run, f"evaluate.out={tmp_path}/out", *options, "evaluate.teacher=false"), print)


def test_a_study_of_agreement_covers_the_cases_of_both_starts(run: Path, tmp_path: Path) -> None:
    config, ids = asked(run, f"evaluate.out={tmp_path}/out"), {"teacher_id": "t", "judge_id": "j", "models": {}}
    masks = [JudgedMask(f"c{number}", "eroded 4", True, 0.5, 0.25 * number, False, 0.5) for number in range(3)]
    video = np.zeros((4, 8, 8), np.uint8)
    for number in range(3):
        folder = EvaluationFolder(config, ids)  # a start for each
        assert sorted(folder.cases) == list(range(number))
        case = VideoClip(f"c{number}", number, 0, 0, 0, video, 25.0, "phantom", "clean")
        score = CaseScore(f"c{number}", "t", "a", 5, "dice_ed", "truth", "", 0.5, 0.9, 1)
        folder.keep(number, ScoredCase(f"c{number}", (score,), case_row(case), 4, (masks[number],)))
        folder.flush()
    assert list(EvaluationFolder(config, ids).judged()) == masks
    (tmp_path / "out/scores/part-000001.parquet").unlink()
    assert sorted(EvaluationFolder(config, ids).cases) == [0, 2]  # a case without its rows is scored again


def test_a_new_checkpoint_is_another_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    config = asked(run, f"evaluate.out={tmp_path}/out", "evaluation.cases=1", "evaluate.teacher=false")
    evaluate(config, lambda line: None)
    publish_student(RunStorage(str(run)), load_config(None, OWN), 9)
    with pytest.raises(InputError, match=r"differs in models"):
        evaluate(config, print)
