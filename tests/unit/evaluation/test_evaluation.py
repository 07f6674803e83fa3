"""Models scored in one process: students of a run, stored masks, the teacher, several readers' tracings."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import JUDGE_STEP
from echodfkd.evaluation.predictions import predict_student
from echodfkd.evaluation.scorer import run_scorer
from echodfkd.metrics.overlap import dice
from echodfkd.models.students.build import build_student
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.evaluation_run import evaluate
from echodfkd.sources.build import build_source
from echodfkd.sources.video.tracing import mask_to_tracing
from echodfkd.storage import schemas
from echodfkd.storage.checkpoints import OptimizerState, StudentState, publish
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from tests.helpers.echonet import write_small_folder

VIDEOS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three recorded videos, and beside them masks, readers' tracings and a run with two checkpoints."""
    root = tmp_path_factory.mktemp("evaluate")
    clips = write_small_folder(str(root / "set"), videos=VIDEOS, size=112, num_frames=30)
    (root / "masks").mkdir()
    (root / "readers").mkdir()
    for clip in clips:
        truth = clip.truth_labels == 1
        codes = np.where(truth, 200, 20).astype(np.uint8)
        shape = codes[:, None] if clip.clip_id == "0XA1" else codes  # their teacher's script leaves a channel axis
        np.savez_compressed(root / "masks" / f"{clip.clip_id}.seg.npz", shape)
        for number, moved in ((0, 0), (1, 4)):
            rows = mask_to_tracing(np.roll(truth[4], moved, axis=1))
            np.save(root / "readers" / f"{clip.clip_id}.diastol.label{number}.npy", rows)
    config = load_config(None, ["students.a={blocks: 1, filters: 2}", "name=run", f"storage={root}"])
    storage = RunStorage(config.root)
    storage.write("config.yaml", config_to_yaml(config).encode())
    for step in (5, 9):
        torch.manual_seed(step)
        weights = build_student(**config.students["a"].network).state_dict()
        state = StudentState(dict(weights), OptimizerState(step, {}, {}))
        options = {"ledger": {}, "quarantine": {}, "meta": {}}
        publish(storage, step=step, students={"a": state}, consumed=Intervals(()), **options)
    return root


def options(folder, out, *more: str) -> list[str]:
    return [
        f"evaluate.out={out}", "evaluation.source.kind=recorded", f"evaluation.source.path={folder / 'set'}",
        "evaluation.source.split=ALL", "window.fps=0", "window.size=56", "evaluation.frames=24", *more,
    ]  # fmt: skip


def run(folder, out, *more: str):
    config = load_config(None, options(folder, out, *more))
    summary = evaluate(config, lambda line: None)
    rows = read_rows(RunStorage(str(out)))
    assert len(rows.cases) == VIDEOS
    return config, summary, rows


def value(rows, student: str, metric: str, number: int) -> float:
    found = [
        row["value"]
        for row in rows.scores.to_pylist()
        if (row["student"], row["metric"]) == (student, metric) and f"0XA{number}-" in row["clip_id"]
    ]
    assert len(found) == 1
    return found[0]


def test_students_of_a_run_and_its_teacher(folder, tmp_path):
    config, summary, rows = run(
        folder, tmp_path / "out", f"evaluate.run={folder / 'run'}", "evaluation.judge_controls=true",
        "students.other={blocks: 1}",
    )  # fmt: skip
    assert set(summary["students"]) == {"a"}  # and not those of the config that asked
    assert summary["students"]["a"]["parameters"] > 0
    assert summary["teacher"]["id"].startswith("embedded-")
    assert summary["ledger"] == {"clips": 0, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    source = build_source(config.evaluation.source, config.window, seed=0, case_frames=24)
    torch.manual_seed(9)
    network = build_student(blocks=1, layers=1, filters=2, norm="batch")
    case = source.case(2)
    prob = predict_student(network, case.video, classes=["LV"], device="cpu").lv_prob
    ed = case.ed_frames[0]
    mask, truth = prob[ed] > 0.5, case.truth_labels[ed] == 1
    assert value(rows, "a", "dice_ed", 2) == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert {row["step"] for row in rows.scores.to_pylist()} == {9, JUDGE_STEP, -1}
    assert summary["students"]["a"]["scores"]["judge_random"]["n"] == VIDEOS
    assert summary["teacher"]["scores"]["dice_ed"]["n"] == VIDEOS
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    _, _, older = run(
        folder, tmp_path / "old", f"evaluate.run={folder / 'run'}", "evaluate.step=5", "evaluate.teacher=false",
        "evaluation.judge=none",
    )  # fmt: skip
    assert {row["step"] for row in older.scores.to_pylist()} == {5}


def test_stored_masks_and_readers(folder, tmp_path):
    _, summary, rows = run(
        folder, tmp_path / "out", f"evaluate.masks={folder / 'masks'}", f"evaluate.annotations={folder / 'readers'}",
        "evaluate.teacher=false", "window.size=112", "evaluate.agreement=true",
    )  # fmt: skip
    scores = summary["students"]["masks"]["scores"]
    # The truth of a folder is the polygon of its tracing, which cuts corners of the mask that it was made from.
    assert scores["dice_ed"]["low"] > 0.95
    assert scores["published_dice_ed"]["mean"] == scores["dice_ed"]["mean"]
    assert scores["afd_ed"]["mean"] <= 1
    for number in range(VIDEOS):
        assert value(rows, "masks", "consensus_dice_ed", number) < value(rows, "masks", "dice_ed", number)
        assert value(rows, "masks", "readers_dice_ed", number) > 0.8
        assert 0.8 < value(rows, "masks", "interreader_dice_ed", number) < 0.97
    study = json.loads((tmp_path / "out/agreement.json").read_text())
    assert {row["mask"] for row in study["rows"]} >= {"truth", "masks", "eroded 4", "dilated 8", "shifted 12"}
    assert study["students"]["spearman"]["n"] == VIDEOS


def test_a_video_without_usable_masks_is_quarantined(folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "0XA0.seg.npz").write_bytes((folder / "masks/0XA0.seg.npz").read_bytes())
    sink = io.BytesIO()
    np.savez(sink, np.zeros((5, 112, 112), np.uint8))
    (masks / "0XA1.seg.npz").write_bytes(sink.getvalue())
    config = load_config(
        None,
        options(folder, tmp_path / "out", f"evaluate.masks={masks}", "evaluate.teacher=false", "evaluation.judge=none"),
    )
    evaluate(config, lambda line: None)
    storage = RunStorage(str(tmp_path / "out"))
    parts = [schemas.read_part(storage, name, schemas.QUARANTINE_SCHEMA) for name in storage.list("quarantine")]
    reasons = sorted(part["reason"][0].as_py() for part in parts)
    assert "masks holds no 0XA2.seg.npz" in reasons[0]
    assert "0XA1.seg.npz holds 5 frames of 112 x 112, expected 30 of 112 x 112" in reasons[1]
    (masks / "0XA0.seg.npz").unlink()
    with pytest.raises(InputError, match=r"none of its 3 cases can be used, the last because .* holds no 0XA2.seg.npz"):
        evaluate(
            load_config(None, options(folder, tmp_path / "none", f"evaluate.masks={masks}", "evaluate.teacher=false")),
            lambda line: None,
        )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["evaluate.teacher=false"], r"evaluate: name a folder to write \(evaluate.out\), and evaluate.run"),
        (["evaluate.run={root}/run", "evaluate.step=7"], r"no published checkpoint of step 7 \(evaluate.step\)"),
        (["evaluate.run={root}/set"], "set is not a run folder: it holds no config.yaml"),
        (["evaluate.masks={root}/nowhere"], "evaluate.masks: .*nowhere holds 0 .parquet and 0 .seg.npz files"),
        (["evaluate.annotations={root}/masks"], "holds no tracings"),
        (["evaluate.agreement=true", "evaluation.judge=none"], "evaluate.agreement: set, but evaluation.judge is none"),
        (
            ["evaluation.source.kind=phantom", "evaluation.source.path=''", "evaluate.masks={root}/masks"],
            "belong to videos of",
        ),
        (["evaluate.out={root}/run"], "evaluate.out: .* holds scores or a run already"),
    ],
)
def test_what_cannot_be_scored_is_refused(folder, tmp_path, more, words):
    if "evaluate.out={root}/run" in more:
        RunStorage(str(folder / "run")).write("identity.json", b"{}")
    texts = [text.replace("{root}", str(folder)) for text in more]
    config = load_config(None, options(folder, tmp_path / "out", "evaluation.cases=1", *texts))
    with pytest.raises((ConfigError, InputError), match=words):
        evaluate(config, lambda line: None)


def test_options_that_contradict_each_other():
    for given, words in ((["evaluate.step=-2", "evaluate.out=/o"], "evaluate.step: got -2"),):
        with pytest.raises(ConfigError, match=words):
            load_config(None, given)


def test_every_checkpoint_at_once_and_a_threshold_chosen_on_other_cases(folder, tmp_path):
    config = load_config(
        None,
        options(
            folder, tmp_path / "out", f"evaluate.run={folder / 'run'}", "evaluate.step=-1", "evaluate.tune_cases=1",
            "evaluate.agreement=true",
        ),
    )  # fmt: skip
    evaluate(config, lambda line: None)
    rows = read_rows(RunStorage(str(tmp_path / "out"))).scores.to_pylist()
    assert len({row["clip_id"] for row in rows}) == VIDEOS - 1  # the last video is the one to tune on
    assert {row["step"] for row in rows} == {5, 9, JUDGE_STEP, -1}
    study = json.loads((tmp_path / "out/agreement.json").read_text())
    assert study["ranking"]["students"]["spearman"]["n"] == 3  # two checkpoints and the teacher
    source = build_source(config.evaluation.source, config.window, seed=0, case_frames=24)
    for step in (5, 9):
        torch.manual_seed(step)
        network = build_student(blocks=1, layers=1, filters=2, norm="batch")
        case = source.case(VIDEOS - 1)
        prob = predict_student(network, case.video, classes=["LV"], device="cpu").lv_prob
        annotated = list(case.ed_frames + case.es_frames)
        overlap = [
            dice(prob[annotated] * 255 >= code + 1, case.truth_labels[annotated] == 1).mean() for code in range(256)
        ]
        chosen = {row["threshold"] for row in rows if row["metric"] == "tuned_dice_all" and row["step"] == step}
        assert overlap[round(255 * chosen.pop())] == pytest.approx(max(overlap), abs=1e-12)
        assert not chosen


def test_what_cannot_be_tuned_is_said(folder, tmp_path):
    def refuse(error, words, *more):
        with pytest.raises(error, match=words):
            evaluate(load_config(None, options(folder, tmp_path / "out", *more)), print)

    run_folder = f"evaluate.run={folder / 'run'}"
    refuse(
        InputError,
        r"evaluate.tune_cases: got 3, but evaluation.source has 3 cases",
        run_folder,
        "evaluate.tune_cases=3",
    )
    refuse(ConfigError, r"evaluate.step: got -2, must be at least -1", run_folder, "evaluate.step=-2")
    refuse(ConfigError, r"evaluate.actors: got -1, must be at least 0", run_folder, "evaluate.actors=-1")


def test_a_teacher_of_recorded_masks_is_placed_as_in_a_run_and_may_lack_a_case(folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in (0, 2):
        (masks / f"0XA{number}.seg.npz").write_bytes((folder / f"masks/0XA{number}.seg.npz").read_bytes())
    _, summary, rows = run(
        folder, tmp_path / "out", f"evaluate.run={folder / 'run'}", "teacher.kind=recorded",
        f"teacher.weights={masks}", "evaluation.judge=none",
    )  # fmt: skip
    assert summary["teacher"]["scores"]["dice_ed"]["n"] == VIDEOS - 1
    assert summary["teacher"]["scores"]["dice_ed"]["mean"] > 0.9
    assert summary["students"]["a"]["scores"]["dice_ed"]["n"] == VIDEOS  # without the teacher's mask
    assert summary["students"]["a"]["scores"]["dice_teacher"]["n"] == VIDEOS - 1
    assert [row["stage"] for row in rows.quarantine.to_pylist()] == ["teacher"]


def test_the_scorer_of_runs_and_overlays_places_recorded_masks(folder):
    config = load_config(
        None,
        options(folder, folder / "none", "teacher.kind=recorded", f"teacher.weights={folder / 'masks'}",
                "evaluation.judge=none"),
    )  # fmt: skip
    prepared = run_scorer(config, "cpu").prepare(1)
    assert prepared.fault == ""
    ed = prepared.case.ed_frames[0]
    assert dice(prepared.teacher.lv_prob[ed] > 0.5, prepared.case.truth_labels[ed] == 1).mean() > 0.9
