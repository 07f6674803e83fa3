"""The main job on recorded input: an EchoNet-layout folder of AVI files, a DeepLabV3 checkpoint as teacher."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import InputError, RunError
from echodfkd.models.teachers.deeplabv3 import DeepLabV3
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.teaching.blocks import make_block, teach_block
from tests.helpers.echonet import write_small_folder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def quiet(line: str) -> None:
    pass


def write_checkpoint(path: Path, *, spoil: bool = False) -> None:
    """A file as EchoNet-Dynamic's training script leaves it, with random weights."""
    torch.manual_seed(0)
    state = DeepLabV3().state_dict()
    if spoil:
        state["classifier.4.bias"] = torch.tensor([float("nan")])
    prefixed = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 3, "state_dict": prefixed, "best_loss": 0.1, "loss": 0.2, "opt_dict": {}}, path)


def recorded(folder: Path) -> list[str]:
    return [
        "source.kind=recorded",
        f"source.path={folder}",
        "evaluation.source.kind=recorded",
        f"evaluation.source.path={folder}",
        "evaluation.source.split=TEST",
    ]


DEEP = pytest.mark.slow  # a network of 40 million weights in three processes; its masks: tests/unit/models


@pytest.mark.parametrize("teacher", ["embedded", pytest.param("echonet_deeplabv3", marks=DEEP)])
def test_avi_files_of_which_one_is_cut_short(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, teacher: str
) -> None:
    folder = tmp_path / "echo net"
    write_small_folder(str(folder), videos=6, splits=("TRAIN", "TRAIN", "TEST"))
    broken = folder / "Videos" / "0XA1.avi"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    options = [f"teacher.kind={teacher}"]
    if teacher == "echonet_deeplabv3":
        write_checkpoint(tmp_path / "deeplabv3.pt")
        options.append(f"teacher.weights={tmp_path}/deeplabv3.pt")
    config = tiny_config(
        *recorded(folder),
        *options,
        "train.steps=3",
        "train.global_batch=2",
        "evaluation.frames=8",
        "data.quarantine_limit=0.9",
    )
    summary = run_distillation(config, quiet)
    storage = RunStorage(config.root)
    report = check_ledger(storage, config.plan_slots)
    assert (report.clips, report.lost, report.repeated) == (6, 0, 0)
    assert summary["ledger"]["quarantined"] == report.quarantined > 0
    rows = [row for name in storage.list("quarantine") for row in storage.read_table(name).to_pylist()]
    assert all("0XA1" in row["reason"] and "frames" in row["reason"] for row in rows)
    assert summary["teacher"]["id"].startswith(f"{teacher}-")
    assert summary["students"]["a"]["scores"]["dice_ed"]["n"] == 2
    assert summary["students"]["a"]["scores"]["dice_all"]["n"] == 2


@pytest.mark.slow  # the block that carries the sentence: tests/unit/teaching/test_teaching.py
def test_a_folder_without_one_readable_video_ends_with_a_sentence_and_its_reasons(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    write_small_folder(str(tmp_path / "data"), videos=3, splits=("TRAIN", "TRAIN", "TEST"))
    for path in (tmp_path / "data" / "Videos").iterdir():
        path.write_text("this is not a video")
    config = tiny_config(*recorded(tmp_path / "data"), "evaluation.enabled=false", "data.max_attempts=3")
    with pytest.raises(RunError, match=r"found no usable clip in 3 attempts \(data.max_attempts\).*recorded-0XA"):
        run_distillation(config, quiet)
    assert RunStorage(config.root).list("quarantine")


def nan_teacher(tiny_config: Callable[..., RunConfig], folder: Path) -> RunConfig:
    write_checkpoint(folder / "nan.pt", spoil=True)
    return tiny_config(
        "teacher.kind=echonet_deeplabv3",
        f"teacher.weights={folder}/nan.pt",
        "evaluation.enabled=false",
        "train.global_batch=1",
        "data.max_attempts=2",
    )


NAN = r"the teacher echonet_deeplabv3-.* gave a mask that is not finite"


def test_a_block_of_a_teacher_that_gives_nan_carries_a_sentence(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """A worker that gets such a block raises its sentence: tests/unit/training/test_training_workers.py."""
    config = nan_teacher(tiny_config, tmp_path)
    source, rules = training_source(config), slot_rules(config)
    block = make_block(source, range(1), rules, actor="source")
    taught = teach_block(load_teacher(config), block, lambda: source, rules, actor="teacher")
    assert re.search(NAN, taught.fault)


@pytest.mark.slow  # the same through a whole run
def test_a_teacher_that_gives_nan_ends_with_a_sentence(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=NAN):
        run_distillation(nan_teacher(tiny_config, tmp_path), quiet)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["source.kind=recorded", "source.path=/no/such/folder"], "/no/such/folder"),
        (["teacher.weights=/no/such/file.safetensors"], "teacher.weights"),
        (["teacher.kind=echonet_deeplabv3", "teacher.weights=/no/such/file.pt"], "teacher.weights"),
        (["storage=/proc/nowhere"], "cannot be written"),
    ],
)
def test_unusable_input_is_one_sentence_before_the_cluster_is_asked(
    tiny_config: Callable[..., RunConfig], overrides: list[str], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        run_distillation(tiny_config(*overrides), quiet)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
