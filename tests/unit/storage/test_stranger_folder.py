"""A run folder that a stranger has filled: links, pipes, devices, sockets, endless files, folders in place of files."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from echodfkd.core.errors import InputError
from echodfkd.reporting.page.report import write_report
from echodfkd.reporting.rows import read_rows
from echodfkd.storage.checkpoints import prune_resume
from echodfkd.storage.files import RunStorage, read_bytes
from tests.unit.reporting.test_reporting import fake_run

LINK = "is a symbolic link: none is followed"


@pytest.fixture(autouse=True)
def no_test_hangs() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder beside the run, with a file that must stay as it is."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "scores.csv").write_text("PRECIOUS")
    return folder


@pytest.fixture
def storage(tmp_path: Path) -> RunStorage:
    return RunStorage(str(tmp_path / "run"))


def untouched(victim: Path) -> bool:
    return {path.name: path.read_text() for path in victim.iterdir()} == {"scores.csv": "PRECIOUS"}


WRITES: dict[str, Callable[[RunStorage, str], object]] = {
    "write": lambda storage, name: storage.write(name, b"ours"),
    "create_once": lambda storage, name: storage.create_once(name, b"ours"),
    "delete": lambda storage, name: storage.delete(name),
}
READS: dict[str, Callable[[RunStorage, str], object]] = {
    "read": lambda storage, name: storage.read(name),
    "exists": lambda storage, name: storage.exists(name),
    "read_all": lambda storage, name: storage.read_all([name], 10),
}


@pytest.mark.parametrize("call", [*WRITES, *READS])
@pytest.mark.parametrize("name", ["report/scores.csv", "report/inner/scores.csv"])
def test_no_folder_that_is_a_link_is_entered(storage: RunStorage, victim: Path, call: str, name: str) -> None:
    storage.write("config.yaml", b"")
    (Path(storage.root) / "report").symlink_to(victim)
    with pytest.raises(InputError, match=f"report {LINK}"):
        {**WRITES, **READS}[call](storage, name)
    assert untouched(victim)


@pytest.mark.parametrize("target", ["../victim", "/etc", "inner", "report", "/dev/fd"])
def test_no_folder_that_is_a_link_is_listed(storage: RunStorage, victim: Path, target: str) -> None:
    storage.write("inner/a", b"")
    (Path(storage.root) / "report").symlink_to(target)
    for call in (storage.list, storage.sizes):
        with pytest.raises(InputError, match=f"report {LINK}"):
            call("report")


def test_a_link_is_replaced_and_not_written_through(storage: RunStorage, victim: Path) -> None:
    storage.write("a", b"")
    link = Path(storage.root) / "scores.csv"
    link.symlink_to(victim / "scores.csv")
    with pytest.raises(InputError, match=f"scores.csv {LINK}"):
        storage.read("scores.csv")
    assert not storage.create_once("scores.csv", b"ours")
    assert untouched(victim)
    storage.write("scores.csv", b"ours")
    assert untouched(victim)
    assert not link.is_symlink()
    assert storage.read("scores.csv") == b"ours"


def test_the_root_may_be_a_link_that_the_user_names(tmp_path: Path, storage: RunStorage) -> None:
    storage.write("a/b", b"1")
    (tmp_path / "mine").symlink_to(storage.root)
    mine = RunStorage(str(tmp_path / "mine"))
    assert mine.read("a/b") == b"1"
    mine.write("a/c", b"2")
    assert storage.list("a") == ["a/b", "a/c"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is a pipe, a device or a socket"),
        (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "is a pipe, a device or a socket"),
        (Path.mkdir, "is a folder, expected a file"),
        (lambda path: path.symlink_to("/dev/zero"), LINK),
        (lambda path: path.symlink_to("/dev/stdin"), LINK),
        (lambda path: path.symlink_to("run.json"), LINK),
        (lambda path: path.symlink_to("nowhere"), LINK),
        (
            lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
            "it has 1099511627776 bytes, at most 100 are read",
        ),
    ],
)
def test_only_a_plain_file_of_bounded_size_is_read(
    storage: RunStorage, make: Callable[[Path], object], words: str
) -> None:
    storage.write("a", b"")
    make(Path(storage.root) / "run.json")
    with pytest.raises(InputError, match=f"run.json:? {words}"):
        storage.read("run.json", 100)


def test_a_file_in_place_of_a_folder_is_named(storage: RunStorage) -> None:
    storage.write("scores", b"")
    for call in (storage.list, storage.sizes):
        with pytest.raises(InputError, match="scores is not a folder, but a file stands in its place"):
            call("scores")
    with pytest.raises(InputError, match="scores is not a folder"):
        storage.write("scores/a", b"")
    with pytest.raises(InputError, match="scores is not a folder"):
        storage.read("scores/a")
    (Path(storage.root) / "folder").mkdir()
    with pytest.raises(InputError, match="folder is a folder, expected a file"):
        storage.write("folder", b"")
    assert sorted(os.listdir(storage.root)) == ["folder", "scores"]


@pytest.mark.slow  # it draws the whole page first
def test_a_report_is_not_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    storage = fake_run(tmp_path / "run")
    (tmp_path / "run" / "report").symlink_to(victim)
    with pytest.raises(InputError, match=f"report {LINK}"):
        write_report(storage)
    assert untouched(victim)


def test_a_report_reads_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    storage, moved = fake_run(tmp_path / "run"), tmp_path / "moved"
    for name in ("scores", "logs", "quarantine", "ledger", "checkpoints", "cases.parquet", "run.json", "identity.json"):
        path = tmp_path / "run" / name
        there = path.exists()
        if there:
            path.rename(moved)
        for make in (lambda path: path.symlink_to(moved), os.mkfifo):
            make(path)
            with pytest.raises(InputError, match=rf"run/{name} is "):
                read_rows(storage)
            path.unlink()
        if there:
            moved.rename(path)


def test_old_resume_states_are_not_deleted_through_a_link(storage: RunStorage, victim: Path) -> None:
    for step in (1, 2, 3):
        storage.write(f"checkpoints/step_{step:08d}/manifest.json", b"{}")
    (victim / "resume.safetensors").write_text("PRECIOUS")
    (Path(storage.root) / "checkpoints" / "step_00000001" / "a").symlink_to(victim)
    with pytest.raises(InputError, match=f"step_00000001/a {LINK}"):
        prune_resume(storage, 2)
    assert (victim / "resume.safetensors").read_text() == "PRECIOUS"


def test_a_file_that_the_user_names_is_a_plain_one_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(str(tmp_path / "link")) == b"1"
    with pytest.raises(OSError, match="it is not a plain file"):
        read_bytes(str(tmp_path / "pipe"))
    with pytest.raises(OSError, match="it is not a plain file"):
        read_bytes("/dev/zero")
    with pytest.raises(OSError, match="it is a folder"):
        read_bytes(str(tmp_path))


def test_weights_of_a_run_are_read_through_no_link(storage: RunStorage, victim: Path) -> None:
    name = "checkpoints/step_00000010/a/student.safetensors"
    storage.write(name, b"weights")
    path = Path(storage.root) / name
    assert read_bytes(str(path)) == b"weights"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_bytes(str(path))
    path.symlink_to(victim / "scores.csv")
    with pytest.raises(InputError, match=f"student.safetensors {LINK}"):
        read_bytes(str(path))
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(victim)
    with pytest.raises(InputError, match=f"step_00000010/a {LINK}"):
        read_bytes(str(path.parent / "scores.csv"))
    with pytest.raises(InputError, match="is not the name of a file inside of this folder"):
        read_bytes(f"{storage.root}/checkpoints/step_00000010/../scores.csv")


def test_an_object_is_read_up_to_its_bound() -> None:
    storage = RunStorage("memory://bounded/run")
    storage.write("a", b"12345")
    assert storage.read("a", 5) == b"12345"
    assert storage.read_all(["a"], 5) == [b"12345"]
    for call in (storage.read, lambda name, limit: storage.read_all([name], limit)):
        with pytest.raises(InputError, match="run/a has more than 4 bytes"):
            call("a", 4)
