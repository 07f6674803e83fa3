"""A run folder that a stranger has filled, and its leases: what is put into them and what must hold then."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from echodfkd.config.file import load_config
from echodfkd.config.identity import open_run_folder
from echodfkd.config.stored import CONFIG, stored_students
from echodfkd.core.errors import EchoDFKDError, RunError
from echodfkd.reporting.live.redraw import harmless_config
from echodfkd.reporting.rows import read_rows
from echodfkd.storage.files import RunStorage
from echodfkd.storage.lease import MAX_LEASE_S, acquire
from echodfkd.storage.manifests import list_checkpoints
from tests.fuzz.mutate import JSON_VALUES, damage_bytes, damage_json, damage_yaml

REACHING = (
    b"teacher: {kind: remote, remote: {url: 'http://127.0.0.1:9'}}",
    b"teacher: {kind: exported, weights: x.pt2, sha256: " + b"0" * 64 + b", pixel_mean: [0.0], pixel_std: [1.0]}",
    b"teacher: {weights: ../../victim/file}",
    b"evaluation: {source: {kind: recorded, path: ../victim}}",
    b"evaluation: {source: {conditions: {table: ../victim/file.csv}}}",
    b"evaluation: {judge: echoclip, judge_weights: hf-hub:x/y}",
)
"""Configs that name files, hosts and downloads."""


def replace_by_something_else(rng: random.Random, path: Path, victim: Path) -> None:
    """Put a link, a pipe, a socket, a folder or an endless file in a file's or folder's place."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    kind = rng.randrange(7)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.touch()
    elif kind == 3:
        path.touch()
        os.truncate(path, 1 << 42)
    elif kind == 4:
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/stdin", victim, victim / "file", path.name, "nowhere", "..")))


class _Folder:
    """A folder that is made anew for each case, beside one that must stay as it is."""

    def __init__(self, folder: Path) -> None:
        self.good, self.root, self.victim = folder / "good", folder / "run", folder / "victim"
        self.victim.mkdir(parents=True)
        (self.victim / "file").write_text("PRECIOUS")

    def start(self) -> RunStorage:
        if self.root.is_symlink():
            self.root.unlink()
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.good, self.root)
        return RunStorage(str(self.root))

    def check(self) -> None:
        assert os.listdir(self.victim) == ["file"]
        assert (self.victim / "file").read_text() == "PRECIOUS"


class RunFolder(_Folder):
    """Its identity, config, facts and folders, as every job that opens one reads them."""

    name = "run_folder"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        options = ["students.a={blocks: 1, filters: 2}", "train.steps=2", f"storage={folder}"]
        storage = open_run_folder(load_config(None, [*options, "name=good"]), "t")
        self.config = load_config(None, [*options, "name=run"])
        facts = {"plan_slots": 8, "students": {"a": {"parameters": 5, "macs_per_frame": 7}}, "wall_s": 3.5}
        for name in ("run.json", "logs/students.json"):
            storage.write(name, json.dumps(facts).encode())
        storage.write("overlays/drawn.json", json.dumps({"step": 1, "names": ["a-0.mp4"]}).encode())
        storage.write("scores/x", b"")
        storage.write("checkpoints/step_00000001/x", b"")

    def run(self, rng: random.Random) -> None:
        storage = self.start()
        name = rng.choice((CONFIG, CONFIG, "identity.json", "identity.json", "run.json", "logs/students.json"))
        path = self.root / name
        kind = rng.random()
        if kind < 0.3:
            other = rng.choice((name, "logs", "scores", "checkpoints", "overlays", "checkpoints/step_00000001", CONFIG))
            replace_by_something_else(rng, self.root / other, self.victim)
        elif kind < 0.45 and name == CONFIG:
            path.write_bytes(b"students: {a: {blocks: 1, filters: 2}}\n" + rng.choice(REACHING))
        else:
            path.write_bytes((damage_yaml if path.suffix == ".yaml" else damage_json)(rng, path.read_bytes()))
        if rng.random() < 0.3:  # an earlier layout: its config.yaml decides whether this is the same run
            storage.write("identity.json", b'{"layout": 2, "config_hash": "x", "teacher_id": "t"}')
        errors: list[EchoDFKDError] = []
        for read in (self._rows, stored_students, list_checkpoints, lambda storage: open_run_folder(self.config, "t")):
            try:
                read(storage)
            except EchoDFKDError as error:
                errors.append(error)
        self.check()
        if errors:
            raise errors[0]

    def _rows(self, storage: RunStorage) -> None:
        config = harmless_config(read_rows(storage).config, CONFIG)
        assert config.teacher.weights == config.teacher.cache == config.teacher.remote.url == ""
        assert config.evaluation.judge == "none"
        assert config.evaluation.source.path == config.evaluation.source.conditions.table == ""


class LeaseFiles(_Folder):
    """Leases and beats of a silent holder: the folder is taken after a bounded time, and never at once."""

    name = "lease"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        holder = {"host": "h", "machine": "m", "pid": 1, "started": "1", "lease_s": 40.0, "taken": 1.0}
        self.good.joinpath("lease").mkdir(parents=True)
        self.holder, self.beat = json.dumps(holder).encode(), b'{"beat": 1, "time": 1.5, "released": false}'

    def run(self, rng: random.Random) -> None:
        storage, now, damaged = self.start(), [0.0], [self.holder, self.beat]
        for place in range(2):
            kind = rng.random()
            if kind < 0.35:
                damaged[place] = damage_json(rng, damaged[place])
            elif kind < 0.6:
                values = json.loads(damaged[place])
                values[rng.choice(list(values))] = rng.choice((*JSON_VALUES, 1e300, 1e9, 0.1, "²"))
                damaged[place] = json.dumps(values).encode()
            elif kind < 0.7:
                damaged[place] = damage_bytes(rng, damaged[place])
        epoch = rng.choice(("000001", "000001", "000007", "²²²", "٣٣٣٣٣٣", "9" * 12, "9" * 100, "1", "-00001"))
        for name, data in zip((f"{epoch}.json", f"{epoch}.beat.json"), damaged, strict=True):
            storage.write(f"lease/{name}", data)
            if rng.random() < 0.1:
                replace_by_something_else(rng, self.root / "lease" / name, self.victim)
        said: list[str] = []
        try:
            lease = acquire(storage, lease_s=60.0, log=said.append, clock=lambda: now[0], sleep=_sleeper(now))
        except RunError as error:
            raise AssertionError("nobody has shown a sign of life") from error
        finally:
            self.check()
        known = epoch in ("000001", "000007")
        assert lease.epoch == (int(epoch) + 1 if known else 1)
        assert now[0] <= MAX_LEASE_S + 1
        assert not known or now[0] >= 1 or b'"released": true' in damaged[1], "taken at once"
        assert all(len(line) < 1000 for line in said)


def _sleeper(now: list[float]) -> Callable[[float], Any]:
    def sleep(seconds: float) -> None:
        assert seconds > 0
        now[0] += seconds

    return sleep
