"""Limited teachers: disjoint sets, files that a run can load, scores that a slow loop confirms, refusals in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.teacher import MemberConfig, TeacherConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.teaching.build import build_configured_teacher
from echodfkd.training.teacher.limited import (
    CASE_STRIDE,
    SEED_OFFSET,
    site_clips,
    teachers_table,
    train_limited_teachers,
)
from tests.helpers.teachers import lv_prob

SMALL = ["limited.clips=3", "limited.steps=2", "limited.batch_clips=2", "limited.cases=2", "window.size=32"]
SMALL += ["evaluation.frames=12", "window.fps=12", "students.a.blocks=1", "limited.sites=[clear, handheld]"]


def small(out: str, *more: str) -> RunConfig:
    return load_config(None, [*SMALL, f"limited.out={out}", *more])


def test_no_patient_is_at_two_sites_and_sites_have_a_scanner_each() -> None:
    clips = [site_clips(small("x"), place) for place in range(2)]
    assert [[clip.index for clip in site] for site in clips] == [[0, 1, 2], [3, 4, 5]]
    assert [{clip.domain for clip in site} for site in clips] == [{"clear"}, {"handheld"}]
    assert {clip.seed for site in clips for clip in site} == {SEED_OFFSET}  # neither a run's clips nor its cases
    patients = [clip.conditions.ef_percent for site in clips for clip in site]
    assert len(set(patients)) == 6
    assert all(clip.video.shape == (2, 32, 32) for site in clips for clip in site)


def test_weights_load_as_a_configs_teachers_and_the_scores_are_those_of_a_slow_loop(tmp_path: Path) -> None:
    config = small(str(tmp_path / "sites"))
    lines: list[str] = []
    found = train_limited_teachers(config, report=lines.append)
    assert lines == ["site clear: 3 clips, 2 steps", "site handheld: 3 clips, 2 steps"]
    files = {site: str(tmp_path / "sites" / f"{site}.safetensors") for site in ("clear", "handheld")}
    members = {site: MemberConfig(weights=path) for site, path in files.items()}
    ensemble = build_configured_teacher(TeacherConfig(kind="ensemble", members=members), device="cpu")
    alone = {site: build_configured_teacher(TeacherConfig(weights=path), device="cpu") for site, path in files.items()}
    assert len({teacher.teacher_id for teacher in alone.values()}) == 2  # other weights

    values: dict[str, list[float]] = {name: [] for name in ("ensemble", *files)}
    source = default_phantom(seed=SEED_OFFSET, num_frames=1, fps=12.0, size=32, case_frames=12, domain="handheld")
    for number in range(2):
        case = source.case(number)
        truth = case.truth_labels == 1
        prob = {site: lv_prob(teacher, case.video[None])[0] for site, teacher in alone.items()}
        # members are rounded to 256 levels before they are fused
        prob["ensemble"] = sum(np.rint(255 * prob[site]) / 255 for site in files) / 2
        np.testing.assert_allclose(lv_prob(ensemble, case.video[None])[0], prob["ensemble"], atol=1e-6)
        for name, mask in prob.items():
            dices = []
            for frame in range(0, 12, CASE_STRIDE):
                a, b = mask[frame] >= 0.5, truth[frame]
                dices.append(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
            values[name].append(float(np.mean(dices)))
    for name, of_cases in values.items():
        score = found["held_out"][name]["handheld"]
        assert score["mean"] == pytest.approx(np.mean(of_cases), abs=1e-9)  # the same sums in another order
        assert (score["n"], score["low"] <= score["mean"] <= score["high"]) == (2, True)
        assert found["held_out"][name]["all"]["n"] == 4

    card = json.loads((tmp_path / "sites" / "handheld.json").read_text())
    assert card["held_out"] == found["held_out"]["handheld"]
    assert "scanner handheld" in card["data"]
    assert "clips 3 .. 5" in card["data"]
    assert (card["steps_done"], card["recipe"]["frames_per_clip"]) == (2, 2)
    assert json.loads((tmp_path / "sites" / "teachers.json").read_text()) == found
    table = teachers_table(found).splitlines()
    assert table[0] == "| teacher | all | clear | handheld |"
    assert len(table) == 7
    best = max(files, key=lambda site: found["held_out"][site]["all"]["mean"])
    assert table[-1] == f"Best on its own: {best}."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["limited.sites=[clear]"], r"limited.sites: got clear; expected two or more different scanners"),
        (["limited.sites=[clear, clear]"], r"limited.sites: got clear, clear; expected two or more different"),
        (["limited.clips=0"], r"limited.clips: got 0, must be at least 1"),
        (["limited.cases=1"], r"limited.cases: got 1, must be at least 2"),
        (["limited.fusion=vote"], r"limited.fusion: got 'vote', allowed are mean_prob, mean_logit, staple"),
        (["study.teachers.a b={kind: embedded}"], r"study.teachers.a b: a teacher's name may hold"),
        (["study.teachers.a.kind=torch"], r"study.teachers.a.kind: got 'torch', allowed are embedded"),
        (["study.teachers.a.kind=ensemble"], r"study.teachers.a.members: an ensemble has at least two, e.g. study.t"),
    ],
)
def test_options_that_cannot_work_are_refused(options: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small("x", *options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["limited.out=''"], ConfigError, r"limited.out: empty, name the folder"),
        (["limited.sites=[clear, mri]"], ConfigError, r"limited.sites\[1\]: got 'mri', allowed are default, clear"),
        (["window.size=36"], ConfigError, r"window.size: got 36, the embedded network needs a multiple of 8"),
        ([], InputError, r"limited.out: .*/file cannot be written"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(tmp_path: Path, options: list[str], error: Any, words: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=words):
        train_limited_teachers(small(str(tmp_path / "file"), *options), report=print)


def test_which_teachers_are_made_or_compared_does_not_change_what_a_run_is() -> None:
    assert config_hash(small("x", "limited.clips=9", "study.teachers.a.kind=embedded")) == config_hash(small("y"))
