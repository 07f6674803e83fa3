"""Run folders and folders of stored clips: how they are spoiled and what must hold then."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import EchoDFKDError
from echodfkd.core.records import CaseScore, DroppedMember, LedgerRow, Quarantined, StageSpan, VideoClip
from echodfkd.models.students.build import build_student
from echodfkd.reporting.rows import read_rows
from echodfkd.reporting.study.cell import read_cell, write_cell
from echodfkd.reporting.study.study import students_of
from echodfkd.reporting.summary import build_summary
from echodfkd.sources.video.encode import encode_mp4
from echodfkd.sources.written.stored import merge_lists, open_folder, pending_shards, write_manifest
from echodfkd.sources.written.writing import plan_shards, write_shard
from echodfkd.storage.checkpoints import OptimizerState, StudentState, publish, read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import list_checkpoints, read_consumed
from echodfkd.storage.schemas import CASE_SCHEMA, TRAINING_SCHEMA, case_row, write_records
from echodfkd.storage.steering import Law, SteeringState, Window, read_steering
from tests.fuzz.mutate import damage_bytes, damage_csv, damage_json, damage_parquet, damage_yaml
from tests.helpers.echonet import beating_clip
from tests.helpers.reports import render_report


class Checkpoint:
    """A run folder's commits: manifests, intervals, weights, resume state, ledger parts."""

    name = "checkpoint"

    def __init__(self, folder: Path) -> None:
        self.good, self.root = folder / "good", folder / "run"
        storage = RunStorage(str(self.good))
        student = build_student(**StudentConfig(blocks=1, layers=1, filters=2).network)
        weights = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        moments = {name: torch.zeros_like(tensor) for name, tensor in student.named_parameters()}
        state = StudentState(weights, OptimizerState(2, moments, {name: m + 1 for name, m in moments.items()}))
        law = Law(0, (0.5, 0.5), (0.5, 1.5), (0.1, 0.2), (3, 1), ((0, 1, 0),))
        laws = SteeringState((law,), Window((1, 2, 0), (1, 1, 0), ((5, 1),)))
        for step in (1, 2):
            part = f"ledger/part-step{step:08d}-rank0-first.parquet"
            rows = [LedgerRow(s, s, f"c{s}", 0, 0, step, 0, "first") for s in range(4 * step - 4, 4 * step)]
            ledger = {part: write_records(storage, part, rows)}
            bad = f"quarantine/part-step{step:08d}-rank0-first.parquet"
            torn = {bad: write_records(storage, bad, [Quarantined(9 + step, 9 + step, "x", "source", "torn")])}
            publish(
                storage, step=step, students={"a": state}, consumed=Intervals(((0, 4 * step),)), ledger=ledger,
                quarantine=torn, meta={"config_hash": "x"}, further=laws.files(),
            )  # fmt: skip
        self.files = [path.relative_to(self.good) for path in sorted(self.good.rglob("*")) if path.is_file()]

    def run(self, rng: random.Random) -> None:
        path = rng.choice(self.files)
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.good, self.root)
        _damage_file(rng, self.root / path)
        if rng.random() < 0.6 and path.name != "manifest.json":
            _sign_again(self.root / path)
        self.read(rng)

    def read(self, rng: random.Random) -> None:
        storage = RunStorage(str(self.root))
        errors: list[EchoDFKDError] = []
        check_ledger(storage, 8)
        for commit in list_checkpoints(storage):
            for read in (read_student, read_resume):
                for name in commit.students:
                    _collect(errors, lambda read=read, commit=commit, name=name: read(storage, commit, name))
            _collect(errors, lambda commit=commit: len(read_consumed(storage, commit)))
            _collect(errors, lambda commit=commit: read_steering(storage, commit))
        if errors:
            raise errors[0]


class Report(Checkpoint):
    """A whole run folder, to the summary and, every fourth time, to the page; and the run's cell in a study."""

    name = "report"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        storage = RunStorage(str(self.good))
        scores = [
            CaseScore(f"c{case}", "t", student, step, metric, "truth", "", 0.5, 0.5 + case / 10, 3)
            for case in range(3)
            for student, step in (("", -1), ("a", 1), ("a", 2))
            for metric in ("dice_all", "dice_ed", "ef_area", "judge_score")
        ]
        write_records(storage, "scores/part-0.parquet", scores)
        spans = [
            StageSpan(stage, f"{stage}-1", 10.0 + n, 11.5 + n, 2, 8)
            for n, stage in enumerate(("source", "teacher", "students", "teacher_cache", "teacher_uncached"))
        ]
        write_records(storage, "logs/spans-0.parquet", spans)
        logs = [
            dict(zip(TRAINING_SCHEMA.names, ("a", step, 0.5, 1e-3, 1.0, 12.0 + step, 0.1, {"bce": 0.5}), strict=True))
            for step in (1, 2)
        ]
        storage.write_table("logs/training-0.parquet", logs, TRAINING_SCHEMA)
        dropped = [DroppedMember(slot, slot, f"c{slot}", "mine", "lost") for slot in (1, 2)]
        write_records(storage, "logs/dropped-step00000001-rank0-first.parquet", dropped)
        storage.write_table("cases.parquet", [case_row(_clip(number)) for number in range(3)], CASE_SCHEMA)
        config = load_config(None, ["students.a={blocks: 1, filters: 2}", "train.steps=2", "train.global_batch=4"])
        storage.write("config.yaml", config_to_yaml(config).encode())
        storage.write("identity.json", json.dumps({"config_hash": "x", "teacher_id": "t"}).encode())
        run = {"version": "1", "plan_slots": 8, "students": {"a": {"parameters": 5}}, "wall_s": 3.5, "machine": "m"}
        storage.write("run.json", json.dumps(run).encode())
        video = np.zeros((4, 64 + 56, 64), np.uint8)
        storage.write("overlays/a-0.mp4", encode_mp4(video, 32.0))
        write_cell(RunStorage(f"{self.good}/rows"), read_rows(storage), "x")
        self.files = [path.relative_to(self.good) for path in sorted(self.good.rglob("*")) if path.is_file()]
        self.files = [path for path in self.files if path.suffix != ".safetensors"]

    def read(self, rng: random.Random) -> None:
        storage = RunStorage(str(self.root))
        cell = read_cell(RunStorage(f"{self.root}/rows"), "demo")
        assert set(students_of({"": cell})["a"].values("dice_all")) <= set(cell.cases["clip_id"].to_pylist())
        json.dumps(build_summary(storage), allow_nan=False)
        if rng.random() < 0.25:
            page = render_report(storage)
            assert page.count("<script") == 1  # its own
            assert "<img src=x" not in page


class Stored:
    """The folder of stored clips: identity, commit records, manifest, lists."""

    name = "stored"

    def __init__(self, folder: Path) -> None:
        self.good, self.root = folder / "good", folder / "set"
        self.shards = plan_shards(clips=4, shard_clips=2, first_index=0)
        self.identity = {"seed": 0, "source": {"kind": "fake"}}
        storage = open_folder(str(self.good), self.identity, on_exists="resume")
        for shard in self.shards:
            write_shard(storage, _FakeSource(), shard, layout="echonet", splits=["TRAIN", "TEST"])
        write_manifest(storage, merge_lists(storage, self.shards, layout="echonet"))
        self.files = [path.relative_to(self.good) for path in sorted(self.good.rglob("*")) if path.is_file()]

    def run(self, rng: random.Random) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.good, self.root)
        _damage_file(rng, self.root / rng.choice(self.files))
        storage = open_folder(str(self.root), self.identity, on_exists="resume")
        pending_shards(storage, self.shards, layout="echonet")
        write_manifest(storage, merge_lists(storage, self.shards, layout="echonet"))


def _clip(number: int) -> VideoClip:
    return beating_clip(f"0XA{number}", num_frames=16, size=16, period=10)


class _FakeSource:
    """Clips that are functions of their index, as fast as it gets."""

    name = "fake"
    num_cases = None

    def clip(self, index: int) -> VideoClip:
        return _clip(index)

    case = clip


def _damage_file(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    damage: dict[str, Callable[[random.Random, bytes], bytes]] = {
        ".json": damage_json, ".parquet": damage_parquet, ".csv": damage_csv, ".yaml": damage_yaml
    }  # fmt: skip
    path.write_bytes(damage.get(path.suffix, damage_bytes)(rng, data))


def _sign_again(path: Path) -> None:
    """Put a damaged file's true size and hash into its manifest, as somebody who may write to the folder can."""
    for manifest in path.parents[1].glob("manifest.json"), path.parent.glob("manifest.json"):
        for file in manifest:
            values, data = json.loads(file.read_bytes()), path.read_bytes()
            entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            values["files"][str(path.relative_to(file.parent))] = entry
            file.write_text(json.dumps(values))


def _collect(errors: list[EchoDFKDError], read: Callable[[], Any]) -> None:
    try:
        read()
    except EchoDFKDError as error:
        errors.append(error)
