"""The run folder on a server that speaks S3: one winner, nothing lost to a busy store, errors of one sentence."""

import itertools
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pytest
import torch

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import InputError, RunError
from echodfkd.runtime import distillation_run
from echodfkd.runtime.distillation_run import open_run_folder
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.sources.video.echonet import read_file_list, read_video
from echodfkd.sources.written.stored import merge_lists, open_folder, pending_shards, write_manifest
from echodfkd.sources.written.writing import plan_shards, write_shard
from echodfkd.storage import object_store
from echodfkd.storage.checkpoints import OptimizerState, StudentState, publish, read_resume
from echodfkd.storage.files import RunStorage, describe, read_bytes
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.lease import Lease
from echodfkd.storage.manifests import latest_checkpoint
from tests.helpers.s3 import FaultyProxy, S3Server, environment
from tests.helpers.stored import check_folder
from tests.helpers.training import run_training, small_config

ROOT = Path(__file__).parents[3]


@pytest.fixture
def storage(s3_bucket: str) -> RunStorage:
    return RunStorage(f"s3://{s3_bucket}/some/run")


def test_write_read_list_replace(storage: RunStorage) -> None:
    storage.check_readable("storage")
    storage.check_writable()
    assert storage.list("") == []
    storage.write("scores/b.txt", b"2")
    storage.write("scores/a b.txt", b"1")
    storage.write("scores/b.txt", b"3")
    storage.write("empty", b"")
    assert storage.list("scores") == ["scores/a b.txt", "scores/b.txt"]
    assert storage.list("") == ["empty", "scores"]
    assert (storage.read("scores/b.txt"), storage.read("empty")) == (b"3", b"")
    assert storage.exists("scores/b.txt")
    assert storage.exists("scores")
    assert not storage.exists("scores/c.txt")
    assert storage.list("none") == []
    with pytest.raises(FileNotFoundError):
        storage.read("scores/c.txt")
    assert read_bytes(f"{storage.root}/scores/b.txt") == b"3"
    schema = pa.schema([("name", pa.string()), ("value", pa.float64())])
    rows = [{"name": "a", "value": 1.5}, {"name": "b", "value": None}]
    storage.write_table("t.parquet", rows, schema)
    assert storage.read_table("t.parquet").to_pylist() == rows


def test_what_another_process_has_made_since_a_listing_is_seen(storage: RunStorage, s3_server: S3Server) -> None:
    import s3fs

    storage.write("folder/a", b"1")
    assert storage.list("folder") == ["folder/a"]
    endpoint = f"http://127.0.0.1:{s3_server.port}"
    other = s3fs.S3FileSystem(key="k", secret="s", endpoint_url=endpoint, skip_instance_cache=True)
    other.pipe_file(storage.path("folder/b"), b"2")
    assert storage.exists("folder/b")
    assert storage.list("folder") == ["folder/a", "folder/b"]
    other.rm_file(storage.path("folder/a"))
    assert not storage.exists("folder/a")


def test_marks_of_folders_that_other_clients_leave_are_no_files(storage: RunStorage) -> None:
    """pyarrow (Ray Train's logs) makes an object named like the folder with a slash at its end."""
    fs, base = pyarrow.fs.FileSystem.from_uri(f"{storage.root}/logs")
    fs.create_dir(base)
    assert storage.list("logs") == []
    storage.write("logs/a.txt", b"")
    assert storage.list("logs") == ["logs/a.txt"]
    assert storage.list("") == ["logs"]


def test_only_one_of_many_threads_creates_an_object(storage: RunStorage) -> None:
    """All write the same bytes, so that the bytes cannot tell who won."""
    made: list[int] = []

    def create(number: int) -> None:
        if storage.create_once("manifest.json", b"the same"):
            made.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert not storage.create_once("manifest.json", b"the same")
    assert storage.read("manifest.json") == b"the same"


def test_only_one_of_two_processes_creates_each_object(storage: RunStorage) -> None:
    code = (
        "import sys; from echodfkd.storage.files import RunStorage; storage = RunStorage(sys.argv[1])\n"
        "storage.exists('ready'); print('ready', flush=True); sys.stdin.readline()\n"
        "print(sum(storage.create_once(f'objects/{n}', b'the same') << n for n in range(20)))\n"
    )
    command = [sys.executable, "-c", code, storage.root]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    one, other = (int(racer.communicate(timeout=60)[0]) for racer in racers)
    assert one & other == 0
    assert one | other == (1 << 20) - 1


@pytest.mark.parametrize("fault", ["lost", "reset", "slow_down", "conflict"])
def test_an_object_made_once_is_ours_although_the_first_answer_did_not_come(
    storage: RunStorage, s3_proxy: FaultyProxy, fault: str
) -> None:
    """lost: the store has made the object, the request is sent again and is refused because of it."""
    once = itertools.chain([fault], itertools.repeat(""))
    s3_proxy.fault = lambda number, method, path: next(once) if method == "PUT" else ""
    assert storage.create_once("manifest.json", b"the same")
    assert s3_proxy.count(fault) == 1
    assert len([path for method, path, _ in s3_proxy.seen if method == "PUT"]) == 2
    assert not storage.create_once("manifest.json", b"the same")


def test_a_refusal_that_does_not_name_its_condition_is_one(storage: RunStorage, s3_proxy: FaultyProxy) -> None:
    s3_proxy.fault = lambda number, method, path: "bare_412"
    assert storage.create_once("manifest.json", b"1")
    assert not storage.create_once("manifest.json", b"2")
    assert storage.read("manifest.json") == b"1"


def make_state(seed: int) -> StudentState:
    torch.manual_seed(seed)
    weights = {"conv.weight": torch.randn(4, 3), "conv.bias": torch.randn(4)}
    mean, square = ({key: torch.rand_like(value) for key, value in weights.items()} for _ in range(2))
    return StudentState(weights, OptimizerState(7, mean, square))


def test_a_checkpoint_is_published_once_through_a_store_that_fails_again_and_again(
    storage: RunStorage, s3_proxy: FaultyProxy
) -> None:
    """Every other request fails in one of four ways; the manifest's own PUT loses its answer."""
    kinds = itertools.cycle(["slow_down", "", "reset", "", "lost", "", "delay 0.05", ""])
    lost = itertools.chain(["lost"], itertools.repeat(""))
    s3_proxy.fault = lambda number, method, path: (
        next(lost) if method == "PUT" and path.endswith("manifest.json") else next(kinds)
    )
    states = {"a": make_state(1), "b": make_state(2)}

    def commit() -> None:
        publish(
            storage,
            step=7,
            students=states,
            consumed=Intervals.of(range(28)),
            ledger={"ledger/part-0.parquet": describe(b"rows")},
            quarantine={},
            meta={"seed": 1},
        )

    commit()
    assert min(s3_proxy.count(kind) for kind in ("slow_down", "reset", "lost", "delay 0.05")) >= 1
    newest = latest_checkpoint(storage)
    assert newest is not None
    assert newest.ledger == ("ledger/part-0.parquet",)
    for name, state in states.items():
        read = read_resume(storage, newest, name)
        assert all(torch.equal(read.weights[key], value) for key, value in state.weights.items())
    with pytest.raises(Exception, match="is published already: another run writes to this folder"):
        commit()


def test_a_silent_store_is_asked_again(
    storage: RunStorage, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "READ_TIMEOUT_S", 0.4)
    patient = RunStorage(storage.root)
    patient.write("a", b"1")
    silent = itertools.chain(["delay 1.5"], itertools.repeat(""))
    s3_proxy.fault = lambda number, method, path: next(silent)
    assert patient.read("a") == b"1"
    assert s3_proxy.count("delay 1.5") == 1


def test_a_store_that_stays_busy_is_an_error_in_the_end(
    storage: RunStorage, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    s3_proxy.fault = lambda number, method, path: "slow_down"
    with pytest.raises(OSError, match="reduce your request rate"):
        RunStorage(f"{storage.root}/other").write("a", b"1")
    assert s3_proxy.count("slow_down") == 5  # s3fs's own turns


def config_for(root: str, *more: str) -> RunConfig:
    return load_config(None, ["students.a.blocks=1", f"storage={root}", "name=run", *more])


def refusals(root: str) -> list[str]:
    """What the two kinds of folder say of a root."""
    said = []
    for attempt in (
        lambda: open_run_folder(config_for(root), "teacher-0"),
        lambda: open_folder(f"{root}/clips", {"seed": 1}, on_exists="resume"),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        said.append(str(caught.value))
    assert all(len(text) < 300 and "\n" not in text for text in said), said
    return said


def test_a_wrong_bucket_is_one_sentence(s3_proxy: FaultyProxy) -> None:
    run, clips = refusals("s3://no-such-bucket/here")
    assert run.startswith("storage: s3://no-such-bucket/here/run cannot be written: ")
    assert clips.startswith("synthesize.out: s3://no-such-bucket/here/clips cannot be written: ")
    assert "bucket does not exist" in run


def test_no_credentials_and_no_server_are_one_sentence(
    s3_bucket: str, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    run, clips = refusals(f"s3://{s3_bucket}/here")
    assert run == f"storage: s3://{s3_bucket}/here/run cannot be read: Unable to locate credentials"
    assert clips.startswith("synthesize.out: ")
    with pytest.raises(InputError, match=r"students.a.initial: s3://.* cannot be read: Unable to locate credentials"):
        config_for("runs", f"students.a.initial=s3://{s3_bucket}/x.ckpt")

    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in environment(port=1).items():
        monkeypatch.setenv(name, value)
    run, _ = refusals(f"s3://{s3_bucket}/here")
    assert run.startswith("storage: ")
    assert "Could not connect to the endpoint URL" in run


def test_a_store_that_goes_away_in_the_middle_of_a_run_is_one_sentence(
    s3_bucket: str, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    config = config_for(f"s3://{s3_bucket}/here")

    def fake_stages(config: RunConfig, lease: Lease, *unused: object) -> None:
        s3_proxy.fault = lambda number, method, path: "reset"
        lease.storage.write("scores/part-0.parquet", b"1")

    monkeypatch.setattr(distillation_run, "_run_leased", fake_stages)
    with pytest.raises(RunError) as caught:
        distillation_run.run_distillation(config, lambda line: None)
    assert re.fullmatch(
        r"the run stopped, a file or a host can no longer be reached: .*; what was published in"
        rf" s3://{s3_bucket}/here/run stays, the same command goes on from there",
        str(caught.value),
    )


def test_a_student_starts_from_an_object(s3_bucket: str) -> None:
    from echodfkd.training.conversion import export_student, import_student
    from echodfkd.training.initial_weights import check_initial
    from tests.helpers.authors import lightning_file, trained_net

    storage = RunStorage(f"s3://{s3_bucket}/authors")
    storage.write("11.ckpt", lightning_file(trained_net(1, 1, 2)))
    student = ["students.a.blocks=1", "students.a.filters=2", "students.a.input=raw"]
    check_initial(load_config(None, [*student, f"students.a.initial=s3://{s3_bucket}/authors/11.ckpt"]))
    card = import_student(f"{storage.root}/11.ckpt", f"s3://{s3_bucket}/ours")
    assert json.loads(read_bytes(f"s3://{s3_bucket}/ours/student.json")) == card
    check_initial(load_config(None, [*student, f"students.a.initial=s3://{s3_bucket}/ours/student.safetensors"]))
    told = export_student(f"s3://{s3_bucket}/ours", f"s3://{s3_bucket}/back")
    assert told["checkpoint"] == f"s3://{s3_bucket}/back/11.ckpt"


def test_students_start_from_a_run_in_a_bucket(s3_bucket: str) -> None:
    from echodfkd.config.sections.student import StudentConfig
    from echodfkd.training.initial_weights import check_initial

    run = f"s3://{s3_bucket}/pretrained"
    small = small_config(students={"a": StudentConfig(blocks=1, filters=2)}, steps=2, checkpoint_every=1, size=16)
    assert "error" not in run_training(small, run)
    student = "students.a={blocks: 1, filters: 2}"
    for origin, step in ((run, 2), (f"{run}/checkpoints/step_00000001", 1)):
        config = load_config(None, [student, f"train.init_from={origin}"])
        assert config.students["a"].initial == f"{run}/checkpoints/step_0000000{step}/a/student.safetensors"
        check_initial(config)
    storage = RunStorage(run)
    storage.write(
        "checkpoints/step_00000001/a/student.safetensors",
        storage.read(config.students["a"].initial[len(run) + 1 :])[:-1],
    )
    with pytest.raises(InputError, match=r"^students.a.initial: .*(is damaged|cannot be read as a safetensors)"):
        check_initial(config)
    with pytest.raises(InputError, match=r"train.init_from: .*/none holds no published checkpoint"):
        load_config(None, [student, f"train.init_from=s3://{s3_bucket}/none"])


FAILING = ["slow_down", "", "", "reset", "", "", "lost", "", "", "delay 0.05", "", ""]


@pytest.mark.parametrize("layout", ["echonet", "parquet"])
def test_shards_written_through_faults_are_those_of_a_disk(
    s3_bucket: str, s3_proxy: FaultyProxy, tmp_path: Path, layout: str
) -> None:
    """Half of the shards, then what `pending_shards` still asks for, as a resumed job does."""
    shards = plan_shards(clips=6, shard_clips=2, first_index=0)
    source = default_phantom(seed=1, num_frames=8, fps=32.0, size=32, case_frames=8)
    kinds = itertools.cycle(FAILING)
    s3_proxy.fault = lambda number, method, path: next(kinds)
    folders = []
    for root in (f"s3://{s3_bucket}/clips", str(tmp_path / "clips")):
        storage = open_folder(root, {"seed": 1}, on_exists="resume")
        write_shard(storage, source, shards[1], layout=layout, splits=["TRAIN"] * 2)
        resumed = open_folder(root, {"seed": 1}, on_exists="resume")
        pending, _ = pending_shards(resumed, shards, layout=layout)
        assert [shard.number for shard in pending] == [0, 2]
        for shard in pending:
            write_shard(resumed, source, shard, layout=layout, splits=["TRAIN"] * 2)
        write_manifest(resumed, merge_lists(resumed, shards, layout=layout))
        assert check_folder(resumed) == 6
        with pytest.raises(Exception, match="holds clips of another seed"):
            open_folder(root, {"seed": 2}, on_exists="resume")
        base = resumed.path("")
        folders.append({name.removeprefix(base): resumed.fs.cat_file(name) for name in resumed.fs.find(base)})
    assert min(s3_proxy.count(kind) for kind in FAILING) >= 1
    assert folders[0] == folders[1]
    if layout == "echonet":
        roots = (f"s3://{s3_bucket}/clips", str(tmp_path / "clips"))
        assert np.array_equal(*(read_video(root, read_file_list(root)[0]).video for root in roots))


def test_training_through_faults_resumes_bit_for_bit(s3_bucket: str, s3_proxy: FaultyProxy, tmp_path: Path) -> None:
    config = small_config()
    kinds = itertools.cycle(FAILING)
    s3_proxy.fault = lambda number, method, path: next(kinds)
    root = f"s3://{s3_bucket}/run"
    assert "ended early" in run_training(config, root, stop=7)["error"]
    assert "error" not in run_training(config, root, attempt="second")
    assert "error" not in run_training(config, tmp_path / "run")
    states = []
    for storage in (RunStorage(root), RunStorage(str(tmp_path / "run"))):
        newest = latest_checkpoint(storage)
        assert newest is not None
        assert newest.step == 10
        states.append(read_resume(storage, newest, "a"))
    there, here = states
    assert all(torch.equal(there.weights[key], value) for key, value in here.weights.items())
    assert all(torch.equal(there.optimizer.exp_avg[key], value) for key, value in here.optimizer.exp_avg.items())
    assert min(s3_proxy.count(kind) for kind in FAILING) >= 1
