"""Students that start from a file, and the job that converts them: what is pinned, checked and refused."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from echodfkd.config.file import config_from_dict, config_to_yaml, load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.students.build import STUDENT_INPUT_MEAN, STUDENT_INPUT_STD, build_student
from echodfkd.runtime.cluster.connection import with_absolute_paths
from echodfkd.storage.checkpoints import pack_student, read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.training.conversion import export_student, import_student
from echodfkd.training.initial_weights import check_initial, read_student_file
from jobs.convert_student import main
from tests.helpers.authors import lightning_file, trained_net
from tests.helpers.training import FRAMES, run_training, small_config

ROOT = Path(__file__).parents[3]
RAW = StudentConfig(blocks=2, layers=1, filters=3, input="raw")


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    path = tmp_path / "21.ckpt"
    path.write_bytes(lightning_file(trained_net(2, 1, 3)))
    return path


def starting_from(path: Path | str, *more: str, **options: object) -> RunConfig:
    student = {"blocks": 2, "layers": 1, "filters": 3, "input": "raw", **options}
    return load_config(
        None, [f"students.a.{key}={value}" for key, value in student.items()] + [f"students.a.initial={path}", *more]
    )


def trained_run(root: Path, **students: StudentConfig) -> Path:
    config = small_config(students=students, steps=2, checkpoint_every=1, size=16)  # a config's least: files hold it
    assert "error" not in run_training(config, root)
    return root


def test_raw_input_is_grey_levels_as_they_are() -> None:
    torch.manual_seed(0)
    ours = build_student(blocks=1, layers=1, filters=2, norm="batch").eval()
    raw = build_student(blocks=1, layers=1, filters=2, norm="batch", input="raw").eval()
    raw.load_state_dict(ours.state_dict())
    video = torch.rand(1, 2, 8, 8) * 255
    with torch.no_grad():
        scaled = raw((video - STUDENT_INPUT_MEAN) / STUDENT_INPUT_STD)
        assert torch.equal(scaled.mask_logits, ours(video).mask_logits)
        assert not torch.equal(raw(video).mask_logits, ours(video).mask_logits)


def test_training_starts_from_the_file_and_resumes_from_its_own_checkpoint(ckpt: Path, tmp_path: Path) -> None:
    """At a learning rate of 0 the weights stay those of the file, and a resumed run no longer opens it."""
    base = small_config(students={"a": dataclasses.replace(RAW, initial=str(ckpt))}, steps=2, checkpoint_every=1)
    still = dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, learning_rate=0.0))
    assert "ended early" in run_training(still, tmp_path / "run", stop=1)["error"]
    storage = RunStorage(str(tmp_path / "run"))
    net = trained_net(2, 1, 3)
    published = read_student(storage, latest_checkpoint(storage), "a")
    for key, parameter in net.named_parameters():
        assert torch.equal(published[key], parameter), key
    assert int(published["conv_lstm_blocks.0.conv_lstm_layers.1.layer.num_batches_tracked"]) == 1235
    ckpt.unlink()
    assert "error" not in run_training(still, tmp_path / "run", attempt="second")
    assert latest_checkpoint(storage).step == 2


def test_the_content_of_the_file_and_not_its_name_decides_the_hash(ckpt: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "same.ckpt", tmp_path / "other.ckpt"
    shutil.copy(ckpt, same)
    other.write_bytes(lightning_file(trained_net(2, 1, 3, seed=1)))
    hashes = [config_hash(starting_from(path)) for path in (ckpt, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert config_hash(load_config(None, ["students.a={blocks: 2, filters: 3, input: raw}"])) not in hashes
    config = starting_from(ckpt)
    assert len(config.students["a"].initial_sha256) == 64
    import yaml

    assert config_from_dict(yaml.safe_load(config_to_yaml(config))) == config
    assert with_absolute_paths(starting_from(ckpt.relative_to("/"), "students.a.initial_sha256=0")).students[
        "a"
    ].initial == str(Path.cwd() / ckpt.relative_to("/"))


def test_what_a_student_cannot_start_from_is_said_before_the_run(ckpt: Path, tmp_path: Path) -> None:
    check_initial(starting_from(ckpt))
    with pytest.raises(InputError, match=r"^students.a.initial: /no/such.ckpt cannot be read: No such file"):
        starting_from("/no/such.ckpt")
    with pytest.raises(ConfigError, match=r"students.a.initial: got 'weights.pt', expected a file that ends in"):
        starting_from("weights.pt")
    with pytest.raises(ConfigError, match=r"students.a.input: got 'centred', allowed are normalised, raw"):
        starting_from(ckpt, input="centred")
    with pytest.raises(InputError, match=r"21.ckpt was trained on raw grey levels, .* set students.a.input=raw"):
        check_initial(starting_from(ckpt, input="normalised"))
    first = r"conv_lstm_blocks.0.conv_lstm_layers.0.cell.conv.bias has shape \(12,\), expected \(16,\)"
    with pytest.raises(InputError, match=rf"students.a.initial: .*21.ckpt does not fit the student: {first}"):
        check_initial(starting_from(ckpt, filters=4))
    with pytest.raises(InputError, match=r"does not fit the student: .*num_batches_tracked, found in the file"):
        check_initial(starting_from(ckpt, norm="group"))
    config = starting_from(ckpt)
    ckpt.write_bytes(lightning_file(trained_net(2, 1, 3, seed=1)))
    with pytest.raises(InputError, match="the file has changed; put the old one back"):
        check_initial(config)
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a.safetensors cannot be read as a safetensors file"):
        check_initial(starting_from(tmp_path / "a.safetensors"))


def test_a_student_of_a_run_is_started_from_and_exported(tmp_path: Path) -> None:
    """Its file says what input it was trained on, and the manifest beside it what its bytes were."""
    run = trained_run(tmp_path / "run", a=RAW, b=dataclasses.replace(RAW, input="normalised"))
    folder = run / "checkpoints" / "step_00000002"
    check_initial(starting_from(folder / "a" / "student.safetensors"))
    with pytest.raises(InputError, match=r"was trained on normalised grey levels, but students.a.input is raw"):
        check_initial(starting_from(folder / "b" / "student.safetensors"))

    weights = load_file(folder / "a" / "student.safetensors")
    for source in (run, folder, folder / "a", folder / "a" / "student.safetensors"):
        out = tmp_path / source.name
        told = export_student(str(source), str(out), name="a")
        assert (told["blocks"], told["layers"], told["filters"], told["step"]) == (2, 1, 3, 2)
        saved = torch.load(out / "21.ckpt", weights_only=True)
        assert saved["global_step"] == 2
        assert all(torch.equal(saved["state_dict"][f"model.{key}"], value) for key, value in weights.items())
        options = json.loads((out / "21.hyperparameters").read_text())
        assert (options["num_filters"], options["kernel_size"], options["input_shape"][-1]) == (3, [3, 3], 1)
    assert export_student(str(run / "checkpoints/step_00000001"), str(tmp_path / "first"), name="a")["step"] == 1

    with pytest.raises(InputError, match=r"takes normalised grey levels .* train the student with input=raw"):
        export_student(str(run), str(tmp_path / "x"), name="b")
    with pytest.raises(InputError, match=r"--student: got '', .*step_00000002 has a, b; name one of them"):
        export_student(str(run), str(tmp_path / "x"))
    with pytest.raises(InputError, match=r"SOURCE: .*/none holds no published checkpoint"):
        export_student(str(tmp_path / "none"), str(tmp_path / "x"))
    with pytest.raises(InputError, match=r"--out: .* holds another 21.ckpt"):
        export_student(str(run / "checkpoints/step_00000001"), str(tmp_path / "run-out"), name="a") and export_student(
            str(run), str(tmp_path / "run-out"), name="a"
        )
    damaged = load_file(folder / "a" / "student.safetensors")
    damaged["output_layer.layer.bias"] += 1
    save_file(damaged, folder / "a" / "student.safetensors")
    with pytest.raises(InputError, match=r"student.safetensors is damaged: sha256 .* it was written as"):
        export_student(str(run), str(tmp_path / "x"), name="a")
    save_file(weights, tmp_path / "loose.safetensors")
    with pytest.raises(InputError, match=r"loose.safetensors holds no options of its network"):
        export_student(str(tmp_path / "loose.safetensors"), str(tmp_path / "x"))
    check_initial(starting_from(tmp_path / "loose.safetensors"))


def test_a_group_norm_student_is_no_student_of_the_authors(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", a=dataclasses.replace(RAW, norm="group"))
    with pytest.raises(
        InputError, match=r"no student of the authors with 2 blocks .*: .*num_batches_tracked has shape none"
    ):
        export_student(str(run), str(tmp_path / "x"))


def test_the_job_goes_there_and_back(ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(ckpt), "--out", str(tmp_path / "ours")]) == 0
    card = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert card.pop("ok")
    assert json.loads((tmp_path / "ours" / "student.json").read_text()) == card
    assert StudentConfig(**card["student"]) == RAW
    assert import_student(str(ckpt), str(tmp_path / "ours")) == card  # again, into the same folder
    assert main(["export", str(tmp_path / "ours"), "--out", str(tmp_path / "theirs")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["checkpoint"] == f"{tmp_path}/theirs/21.ckpt"
    original = torch.load(io.BytesIO(ckpt.read_bytes()), weights_only=False)["state_dict"]
    exported = torch.load(tmp_path / "theirs" / "21.ckpt", weights_only=True)["state_dict"]
    assert set(original) == set(exported)
    assert all(torch.equal(exported[key], value) for key, value in original.items())
    command = [sys.executable, "jobs/convert_student.py", "import", "README.md", "--out", str(tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    words = "error: SOURCE: got README.md, expected a .ckpt file of the authors' code\n"
    assert (done.returncode, done.stderr) == (2, words)


TWO = ["students.a={blocks: 2, layers: 1, filters: 3}", "students.b={blocks: 1, layers: 1, filters: 2}"]
PAIR = {"a": StudentConfig(blocks=2, layers=1, filters=3), "b": StudentConfig(blocks=1, layers=1, filters=2)}


def test_all_students_start_from_an_earlier_run_by_name(tmp_path: Path) -> None:
    """From a run's newest checkpoint or one that is named: the same as every student's own `initial`, to the hash.

    A learning rate of 0 leaves what a run starts from, and the optimiser has seen nothing but this run's own updates.
    """
    run = trained_run(tmp_path / "run", **PAIR)
    newest, first = run / "checkpoints/step_00000002", run / "checkpoints/step_00000001"
    config = load_config(None, [*TWO, f"train.init_from={run}"])
    assert {name: student.initial for name, student in config.students.items()} == {
        name: str(newest / name / "student.safetensors") for name in PAIR
    }
    spelled = [f"students.{name}.initial={newest / name / 'student.safetensors'}" for name in PAIR]
    assert config_hash(config) == config_hash(load_config(None, [*TWO, *spelled]))
    earlier = load_config(None, [*TWO, f"train.init_from={first}/"])
    assert len({config_hash(config), config_hash(earlier), config_hash(load_config(None, TWO))}) == 3
    own = load_config(None, [*TWO, f"train.init_from={run}", f"students.b.initial={first / 'b/student.safetensors'}"])
    assert own.students["b"].initial == str(first / "b/student.safetensors")
    one = load_config(None, [TWO[0], f"train.init_from={newest / 'a/student.safetensors'}"])
    assert one.students["a"] == config.students["a"]
    check_initial(config)

    base = small_config(students=config.students, steps=2, checkpoint_every=2)
    tuned = dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, learning_rate=0.0))
    assert "error" not in run_training(tuned, tmp_path / "tuned")
    storage = RunStorage(str(tmp_path / "tuned"))
    commit = latest_checkpoint(storage)
    for name in PAIR:
        kept, wanted = read_student(storage, commit, name), load_file(newest / name / "student.safetensors")
        trained = dict(build_student(**PAIR[name].network).named_parameters())
        assert all(torch.equal(kept[key], wanted[key]) for key in trained)
        assert read_resume(storage, commit, name).optimizer.step == 2
        assert commit.meta["students"][name]["initial"].startswith(str(newest))


def test_what_a_run_cannot_start_from_is_said(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", **PAIR)
    with pytest.raises(InputError, match=r"train.init_from: .*step_00000002 has no student c; it has a, b. Give"):
        load_config(None, ["students.c={blocks: 1}", f"train.init_from={run}"])
    with pytest.raises(
        InputError, match=r"train.init_from: .*/none holds no published checkpoint; name a run's folder"
    ):
        load_config(None, [*TWO, f"train.init_from={tmp_path}/none"])
    with pytest.raises(InputError, match=r"step_00000009 holds no published checkpoint"):
        load_config(None, [*TWO, f"train.init_from={run}/checkpoints/step_00000009"])
    wider = load_config(None, [TWO[0].replace("filters: 3", "filters: 4"), f"train.init_from={run}"])
    with pytest.raises(InputError, match=r"students.a.initial: .* does not fit the student: .* has shape \(12,\), exp"):
        check_initial(wider)
    config = load_config(None, [*TWO, f"train.init_from={run}"])
    path = run / "checkpoints/step_00000002/a/student.safetensors"
    damaged = load_file(path)
    damaged["output_layer.layer.bias"] += 1
    save_file(damaged, path)
    for broken in (config, load_config(None, [*TWO, f"train.init_from={run}"])):
        with pytest.raises(InputError, match=r"students.a.initial: .* is damaged: sha256 .* it was written as"):
            check_initial(broken)
    (run / "checkpoints/step_00000002/manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is not a checkpoint's manifest"):
        load_config(None, [*TWO, f"train.init_from={run}"])


@pytest.mark.parametrize(
    "student",
    [
        StudentConfig(blocks=2, layers=1, filters=3, norm="group", input="raw", skips=True),
        StudentConfig(blocks=2, layers=1, filters=0, recurrence="mingru", bidirectional=True, activation="silu"),
    ],
)
def test_a_copied_file_is_enough_to_build_the_student_again(tmp_path: Path, student: StudentConfig) -> None:
    run = trained_run(tmp_path / "run", a=student)
    shutil.copy(run / "checkpoints/step_00000002/a/student.safetensors", tmp_path / "copy.safetensors")
    shutil.rmtree(run)
    file = read_student_file(str(tmp_path / "copy.safetensors"), option="SOURCE")
    assert file.options == student
    assert file.window == WindowConfig(frames=FRAMES, size=16)
    build_student(**file.options.network).load_state_dict(file.weights)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("{", "copy.safetensors, metadata 'network', is not readable JSON"),
        ("[" * 100_000, "copy.safetensors, metadata 'network', is not readable JSON"),
        ("[1]", "metadata 'network', must hold a JSON object, got a list"),
        ('{"initial": "/etc/passwd"}', "has an unknown option of its network: initial"),
        ('{"blocks": 1000000000}', "describes no student: students.file.blocks: got 1000000000, must lie in 1 .. 6"),
        ('{"blocks": "two"}', "describes no student: students.file.blocks: got 'two'"),
        ('{"norm": "${oc.env:HOME}"}', "describes no student: a stored config holds"),
        ('{"classes": []}', "describes no student: students.file.classes: got none, must hold LV"),
        ('{"blocks": 6, "filters": 1024}', "copy.safetensors does not fit the student: conv_lstm_blocks.0.conv"),
    ],
)
def test_options_that_describe_no_such_student_are_one_sentence(tmp_path: Path, metadata: str, words: str) -> None:
    weights = build_student(blocks=1, filters=2).state_dict()
    save_file(weights, tmp_path / "copy.safetensors", metadata={"network": metadata})
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        read_student_file(str(tmp_path / "copy.safetensors"), option="SOURCE")
    assert str(caught.value).startswith("SOURCE: ")


def test_the_same_student_has_the_same_bytes() -> None:
    """safetensors keeps metadata in an order of its own in every call: of four keys, 24."""
    weights = build_student(blocks=1, filters=2).state_dict()
    about = {key: {"size": 16} for key in ("network", "window", "a", "b")}
    packed = {pack_student(weights, about) for _ in range(20)}
    assert len(packed) == 1
    loaded = load(packed.pop())
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)
