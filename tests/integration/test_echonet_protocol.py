"""The two runs on EchoNet's data sets, end to end as their page gives them, on tiny files of the true formats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.evaluated import run_options
from echodfkd.config.file import load_config
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.runtime.evaluation_run import evaluate
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from tests.benchmarks.echonet_hours import hours_table
from tests.helpers.echonet import write_small_folder
from tests.integration.test_recorded_run import write_checkpoint
from tests.unit.models.test_echoclip import PREPROCESS, SMALL, save_small

SIZE = 32
TINY = [
    *("window.size=16", "window.frames=4", "train.steps=2", "train.global_batch=2", "train.checkpoint_every=2"),
    *(
        "evaluation.cases=1",
        "evaluation.frames=8",
        "teacher.batch_frames=8",
        "ray.progress_s=0",
        "train.precision=fp32",
    ),
]


def write_judge(folder: Path) -> None:
    """EchoCLIP as open_clip saves it: small towers, random weights."""
    from echodfkd.models.teachers.torchvision_guard import import_torchvision

    import_torchvision()
    open_clip = pytest.importorskip("open_clip")
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": PREPROCESS}))
    save_small(open_clip, folder)


def write_synthetic(folder: Path) -> None:
    """EchoNet-Synthetic has no tracings, and a FileList whose sizes are wrong."""
    write_small_folder(str(folder), videos=4, splits=("TRAIN",), size=SIZE)
    (folder / "VolumeTracings.csv").unlink()
    rows = list(csv.DictReader((folder / "FileList.csv").open()))
    with (folder / "FileList.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "FrameHeight": 192, "NumberOfFrames": 8} for row in rows)


@pytest.mark.slow
def test_the_pages_hours_are_those_of_the_configs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "echonet.md").read_text()
    assert hours_table() in page, "run: python -m tests.benchmarks.echonet_hours"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("name", "more", "fps"), [("paper", ["teacher.sees.size=32"], 0), ("ours", [], 32)])
def test_a_protocol_runs_from_its_files_to_the_tables(
    local_ray: None, tmp_path: Path, name: str, more: list[str], fps: int
) -> None:
    write_synthetic(tmp_path / "EchoNet-Synthetic")
    write_small_folder(str(tmp_path / "EchoNet-Dynamic"), videos=4, splits=("TRAIN", "VAL", "TEST", "TEST"), size=SIZE)
    write_checkpoint(tmp_path / "deeplabv3.pt")
    write_judge(tmp_path / "echo-clip")
    truth = [f"evaluation.source.path={tmp_path}/EchoNet-Dynamic", f"teacher.weights={tmp_path}/deeplabv3.pt"]
    place = [f"storage={tmp_path}/runs", f"source.path={tmp_path}/EchoNet-Synthetic", *truth]
    config = load_config(f"configs/echonet_{name}.yaml", [*place, *TINY, *more])
    summary = run_distillation(config, lambda line: None)
    assert check_ledger(RunStorage(config.root), config.plan_slots).problems == []
    assert list(summary["students"]) == list(config.students)
    options = [
        f"evaluate.run={config.root}", f"evaluate.out={tmp_path}/out", f"window.fps={fps}", f"window.size={SIZE}",
        "evaluation.source.kind=recorded", "evaluation.source.split=TEST", "evaluation.cases=2", "evaluation.frames=40",
        "evaluation.judge=echoclip", f"evaluation.judge_weights={tmp_path}/echo-clip",
        "evaluation.judge_precision=fp32", "teacher.kind=echonet_deeplabv3", *truth,
    ]  # fmt: skip
    scored = evaluate(load_config(None, options, below=run_options), lambda line: None)
    for student in config.students:
        scores = scored["students"][student]["scores"]
        for metric in ("dice_ed", "published_dice_ed", "published_afd_es", "judge_score"):
            assert scores[metric]["n"] == 2, (student, metric)
            assert np.isfinite(scores[metric]["mean"])
    rows = read_rows(RunStorage(f"{tmp_path}/out")).scores.to_pylist()
    assert {row["reference"].split("-")[0] for row in rows if row["metric"] == "judge_score"} == {"echoclip"}
