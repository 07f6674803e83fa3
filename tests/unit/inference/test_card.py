"""The facts of a run that a model card shows: numbers and names, whoever wrote the run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from echodfkd.core.errors import InputError
from echodfkd.inference.export.card import read_run_facts


def run_folder(root: Path, summary: Any, config: Any) -> str:
    """A run folder with this summary and config; returns the path of its student."""
    folder = root / "checkpoints" / "step_00000007" / "c21"
    folder.mkdir(parents=True)
    (root / "summary.json").write_text(json.dumps(summary))
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return str(folder / "student.safetensors")


SCORE = {"mean": 0.9, "low": 0.8, "high": 0.95, "n": 24}
CONFIG = {
    "name": "demo",
    "source": {"kind": "phantom", "domain": "clear", "conditions": {"ef_percent": [10, 40], "table": "/home/me/x.csv"}},
    "evaluation": {"source": {"kind": "phantom"}},
    "teacher": {"kind": "embedded"},
}


def test_the_facts_of_a_run_are_its_scores_and_their_evidence(tmp_path: Path) -> None:
    summary = {"students": {"c21": {"steps": 7, "scores": {"dice_all": SCORE}}}, "teacher": {"id": "embedded-1a2b"}}
    facts = read_run_facts(run_folder(tmp_path, summary, CONFIG), 7)
    assert facts.scores == {"dice_all": SCORE}
    assert (facts.run, facts.teacher) == ("demo", "embedded-1a2b")
    assert facts.evidence.startswith("phantom truth: exact")
    assert facts.data == {"kind": "phantom", "domain": "clear", "conditions": {"ef_percent": [10, 40]}}
    assert read_run_facts(run_folder(tmp_path / "older", summary, CONFIG), 6).scores == {}, "scores of another step"
    assert read_run_facts("elsewhere/student.safetensors", 7).run == ""


def test_nothing_but_plain_numbers_and_names_is_taken_from_a_run(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    scores = {script: SCORE, "a": {**SCORE, "mean": script}, "b": {**SCORE, "n": True}, "c": 3, "d": SCORE}
    summary = {"students": {"c21": {"steps": 7, "scores": scores}}, "teacher": {"id": f"x {script}"}}
    config = {**CONFIG, "name": script, "source": {"kind": [script], "conditions": {script: 1, "a": [script, 2]}}}
    facts = read_run_facts(run_folder(tmp_path / "a", summary, config), 7)
    assert facts.scores == {"d": SCORE}
    assert (facts.run, facts.teacher) == ("", "embedded")
    assert facts.data["conditions"] == {"a": [2]}
    for number, (bad, text) in enumerate((([], "must hold a JSON object"), ({"students": []}, ""))):
        path = run_folder(tmp_path / f"b{number}", bad, CONFIG)
        if text:
            with pytest.raises(InputError, match=text):
                read_run_facts(path, 7)
        else:
            assert read_run_facts(path, 7).scores == {}
    path = run_folder(tmp_path / "link", {}, CONFIG)
    (tmp_path / "link" / "summary.json").unlink()
    (tmp_path / "link" / "summary.json").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="is a symbolic link"):
        read_run_facts(path, 7)
