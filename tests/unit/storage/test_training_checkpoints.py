"""One plain process: what a checkpoint holds, what is refused, what a run says about itself."""

import dataclasses
import json
import shutil

import pytest
import torch

from echodfkd.config.sections.objective import TermConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import InputError, RunError
from echodfkd.core.records import DistillationBatch
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.storage.checkpoints import prune_resume, publish, read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints, read_consumed
from echodfkd.training.student import make_student, student_seed
from tests.helpers.training import BATCH_STUDENT, GROUP_STUDENT, PAIR, TEACHER, first_step, run_training, small_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two students with commits at the steps 4, 8 and 10, and what it reported."""
    root = tmp_path_factory.mktemp("checkpoints") / "run"
    reports: list[dict] = []
    config = small_config(students=PAIR, checkpoint_every=4)
    result = run_training(config, root, reports=reports)
    return root, result, reports


@pytest.fixture
def storage(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    return RunStorage(str(tmp_path / "run"))


def test_commits_stand_in_order_and_cover_the_plan(storage):
    commits = list_checkpoints(storage)
    assert [commit.step for commit in commits] == [4, 8, 10]
    assert commits[-1] == latest_checkpoint(storage)
    assert first_step(storage) == 10
    assert [read_consumed(storage, commit) for commit in commits] == [Intervals(((0, n),)) for n in (16, 32, 40)]
    assert commits[-1].students == ("a", "b")
    assert commits[-1].folder == "checkpoints/step_00000010"
    assert set(commits[-1].files) == {
        "a/student.safetensors",
        "a/resume.safetensors",
        "b/student.safetensors",
        "b/resume.safetensors",
        "consumed.json",
        "meta.json",
    }
    meta = json.loads(storage.read("checkpoints/step_00000010/meta.json"))
    assert meta == commits[-1].meta
    assert meta["teacher_id"] == TEACHER
    assert meta["students"]["b"] == dataclasses.asdict(PAIR["b"])


def test_weights_and_resume_state_agree(storage):
    commit = latest_checkpoint(storage)
    weights, state = read_student(storage, commit, "a"), read_resume(storage, commit, "a")
    assert weights.keys() == state.weights.keys()
    assert all(torch.equal(weights[key], state.weights[key]) for key in weights)
    assert state.optimizer.step == 10
    assert state.optimizer.exp_avg.keys() == state.optimizer.exp_avg_sq.keys() < weights.keys()  # no moments of buffers
    tracked = [key for key in weights if key.endswith("num_batches_tracked")]
    assert tracked
    assert all(int(weights[key]) == 10 for key in tracked)


def test_a_folder_without_a_manifest_is_no_checkpoint(storage):
    storage.fs.rm_file(storage.path("checkpoints/step_00000010/manifest.json"))
    storage.write("checkpoints/notes.txt", b"not a folder")
    assert latest_checkpoint(storage).step == 8
    assert [commit.step for commit in list_checkpoints(storage)] == [4, 8]
    assert (
        run_training(small_config(students=PAIR, checkpoint_every=4), storage.root, attempt="again")["start_step"] == 8
    )


def test_a_watcher_reads_each_manifest_once(storage, monkeypatch):
    seen = {commit.folder for commit in list_checkpoints(storage)[:2]}
    reads = []
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda name, *limit: reads.append(name) or read(name, *limit))
    assert [commit.step for commit in list_checkpoints(storage, known=seen)] == [10]
    assert reads == ["checkpoints/step_00000010/manifest.json"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(RunStorage(str(tmp_path))) is None
    assert first_step(RunStorage(str(tmp_path))) == 0


@pytest.mark.parametrize("file", ["a/student.safetensors", "a/resume.safetensors", "consumed.json"])
def test_one_flipped_bit_is_refused(storage, file):
    commit = latest_checkpoint(storage)
    data = bytearray(storage.read(f"{commit.folder}/{file}"))
    data[len(data) // 2] ^= 1
    storage.write(f"{commit.folder}/{file}", bytes(data))
    readers = {"a/student.safetensors": read_student, "a/resume.safetensors": read_resume}
    read = readers.get(file, lambda storage, commit, _: read_consumed(storage, commit))
    with pytest.raises(InputError, match=f"step_00000010/{file} is damaged: sha256 "):
        read(storage, commit, "a")


def test_missing_and_unknown_things_are_named(storage):
    commit = latest_checkpoint(storage)
    with pytest.raises(InputError, match="step_00000010 has no student 'c'; it has a, b"):
        read_student(storage, commit, "c")
    storage.fs.rm_file(storage.path(f"{commit.folder}/a/student.safetensors"))
    with pytest.raises(InputError, match=r"a/student.safetensors is missing, but the checkpoint's manifest names it$"):
        read_student(storage, commit, "a")
    storage.write(f"{commit.folder}/manifest.json", b"{}")
    with pytest.raises(InputError, match=r"manifest.json is not a checkpoint's manifest"):
        latest_checkpoint(storage)


def test_pruning_keeps_weights_everywhere_and_resume_state_of_the_newest(storage):
    # train.keep_resume is 2: the run itself pruned step 4
    first, second, third = list_checkpoints(storage)
    with pytest.raises(InputError, match=r"resume.safetensors is missing.*train.keep_resume"):
        read_resume(storage, first, "b")
    read_resume(storage, second, "b")
    prune_resume(storage, keep=1)
    with pytest.raises(InputError, match=r"train.keep_resume"):
        read_resume(storage, second, "a")
    read_resume(storage, third, "a")
    for commit in (first, second, third):
        assert read_student(storage, commit, "a")


def test_a_step_is_published_once(storage):
    with pytest.raises(RunError, match="step_00000010 is published already: another run writes to this folder"):
        publish(storage, step=10, students={}, consumed=Intervals(), ledger={}, quarantine={}, meta={})


def test_another_architecture_is_refused_by_its_first_differing_key(storage):
    weights = read_student(storage, latest_checkpoint(storage), "a")
    from echodfkd.models.students.build import build_student

    wider = build_student(blocks=1, layers=2, filters=5, norm="batch")
    with pytest.raises(
        InputError, match=r"the file does not fit the student: conv_lstm_blocks.0.*has shape .* expected"
    ):
        load_weights(wider, weights, what="the file")
    deeper = build_student(blocks=1, layers=3, filters=3, norm="batch")
    with pytest.raises(
        InputError, match=r"it has no conv_lstm_blocks.0.conv_lstm_layers.4.cell.conv.bias, shape \(12,\)"
    ):
        load_weights(deeper, weights, what="the file")
    flatter = build_student(blocks=1, layers=1, filters=3, norm="batch")
    with pytest.raises(InputError, match=r"the student has no conv_lstm_blocks.0.conv_lstm_layers.2.cell.conv.bias"):
        load_weights(flatter, weights, what="the file")


def test_a_run_goes_on_only_with_its_own_config_and_teacher(storage):
    other = small_config(students={"a": StudentConfig(blocks=1, filters=2)}, checkpoint_every=4)
    assert "was made with config_hash" in run_training(other, storage.root)["error"]
    two = small_config(students=PAIR, checkpoint_every=4, workers=2)
    assert run_training(two, storage.root)["error"].startswith("train.workers: got 2, but the worker group has 1")


def test_a_finished_run_trains_nothing_more(storage):
    result = run_training(small_config(students=PAIR, checkpoint_every=4), storage.root)
    assert (result["start_step"], result["clips"], result["published"]) == (10, 0, "checkpoints/step_00000010")


def test_reports_are_rare_and_end_with_the_last_step(trained):
    _, result, reports = trained
    assert [report["step"] for report in reports][-1] == 10
    assert len(reports) <= 2 + result["wall_s"]
    last = reports[-1]
    assert (last["steps"], last["published"], last["clips"]) == (10, 10, 40)
    assert last["losses"] == result["losses"]
    assert 0 <= last["wait_share"] <= 1
    assert result["wait_s"] <= result["wall_s"]


def test_initial_weights_follow_from_seed_and_name_alone():
    seeds = {student_seed(seed, name) for seed in (0, 1) for name in ("a", "b")}
    assert len(seeds) == 4
    assert student_seed(0, "c31") == 0xC7CC4D13E9B25B  # fixed for ever: runs must be repeatable across versions


def test_students_of_one_architecture_can_start_alike():
    """Their objectives differ, and with them their updates."""
    alike = {"a": GROUP_STUDENT["a"], "b": dataclasses.replace(GROUP_STUDENT["a"], objective={"dice": TermConfig()})}
    first = {}
    for same in (False, True):
        config = small_config(students={**alike, "wide": BATCH_STUDENT["a"]}, same_start=same)
        first[same] = {
            name: make_student(config, name, torch.device("cpu"), None).engine.weights() for name in config.students
        }
    assert all(torch.equal(first[True]["a"][key], first[True]["b"][key]) for key in first[True]["a"])
    assert any(not torch.equal(first[False]["a"][key], first[False]["b"][key]) for key in first[False]["a"])


def test_wrong_micro_batches_are_named(tmp_path):
    def halve(batch: DistillationBatch) -> DistillationBatch:
        names = ("slot", "index", "clip_id", "epoch", "window_start", "video", "teacher_prob", "sample_weight")
        return dataclasses.replace(batch, **{name: getattr(batch, name)[:2] for name in names})

    error = run_training(small_config(), tmp_path / "short", change=halve)["error"]
    assert error == "the clip stream sent 2 clips at step 1, a micro-batch holds 4"


def test_a_slot_that_a_checkpoint_has_consumed_is_refused(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step_00000010")

    def earlier(batch: DistillationBatch) -> DistillationBatch:
        return dataclasses.replace(batch, slot=batch.slot - 20)

    error = run_training(small_config(students=PAIR, checkpoint_every=4), tmp_path / "run", change=earlier)["error"]
    assert error == "the clip stream sent slot 12 at step 9, but a checkpoint has consumed it already"


def test_arrival_order_is_accepted_and_repeats_are_found_at_the_checkpoint(tmp_path):
    config = dataclasses.replace(small_config(), data=dataclasses.replace(small_config().data, order="arrival"))

    def backwards(batch: DistillationBatch) -> DistillationBatch:
        return dataclasses.replace(batch, slot=39 - batch.slot, index=39 - batch.index)

    assert run_training(config, tmp_path / "run", change=backwards)["steps"] == 10
    storage = RunStorage(str(tmp_path / "run"))
    assert read_consumed(storage, list_checkpoints(storage)[0]).ranges == ((20, 40),)

    def same(batch: DistillationBatch) -> DistillationBatch:
        return dataclasses.replace(batch, slot=batch.slot % 8)

    error = run_training(config, tmp_path / "again", change=same)["error"]
    assert error.startswith("after step 5 the workers have trained 8 distinct slots, expected 20")
