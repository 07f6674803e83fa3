"""Summary and report of fake run folders: generated rows, every number recomputed by another route."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import random
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
import yaml

from echodfkd.core import intervals
from echodfkd.core.errors import InputError
from echodfkd.core.records import CaseScore, Conditions, DroppedMember, LedgerRow, Quarantined, StageSpan, VideoClip
from echodfkd.reporting.figures import overlays
from echodfkd.reporting.live.follow import is_over
from echodfkd.reporting.page.report import write_report
from echodfkd.reporting.page.tables import ledger_sentence, notes
from echodfkd.reporting.rows import read_rows
from echodfkd.reporting.summary import build_summary, summarise, write_summary
from echodfkd.reporting.teacher_facts import teacher_sentences
from echodfkd.sources.video.encode import encode_mp4
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage
from tests.helpers.reports import render_report

STUDENTS = {"c31": 174_721, "c11": 5_701}
MACS = {"c31": 330_710_016, "c11": 70_597_632}
STEPS, BATCH, EVERY = 40, 4, 20
CASES = 10
BEGIN = 1.7e9
TEACHER = "embedded-1a2b3c4d"
JUDGE = "embedded-judge-99"


def fake_case(index: int, frames: int = 24, size: int = 32) -> VideoClip:
    """A disc whose radius follows a cosine: ED at 0 and 16, ES at 8."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = 7 + 3 * np.cos(2 * np.pi * np.arange(frames) / 16)
    truth = (x**2 + y**2)[None] < (radius**2)[:, None, None]
    noise = np.random.default_rng(index).integers(0, 40, truth.shape)
    return VideoClip(
        clip_id=f"fake-s1-i{index}-e0-w0",
        index=index,
        seed=1,
        epoch=0,
        window_start=0,
        video=(np.where(truth, 30, 150) + noise).astype(np.uint8),
        fps=32.0,
        source="fake",
        domain="default",
        conditions=Conditions(ef_percent=30.0 + 4 * index),
        truth_labels=truth.astype(np.uint8),
        ed_frames=(0, 16),
        es_frames=(8,),
    )


def fake_config(**evaluation: object) -> dict[str, object]:
    return {
        "name": "fake-run",
        "seed": 7,
        "source": {"kind": "phantom", "path": ""},
        "window": {"frames": 16, "fps": 32.0, "size": 56},
        "students": {"c31": {"blocks": 3, "layers": 1}, "c11": {"blocks": 1, "layers": 1}},
        "train": {"steps": STEPS, "global_batch": BATCH, "workers": 1, "engine": "deepspeed", "precision": "fp32"},
        "evaluation": {"enabled": True, "judge": "embedded", **evaluation},
    }


def fake_run_json() -> dict[str, object]:
    return {
        "version": "0.1.0",
        "config_hash": "0123456789abcdef",
        "teacher_id": TEACHER,
        "wall_s": 61.5,
        "first_step_s": 9.25,
        "steady_s": 1.0,
        "peak_memory_mb": 1234.5,
        "stages": {"teacher": 2},
        "machine": {"cpus": 2, "gpus": 0},
        "students": {name: {"parameters": size, "macs_per_frame": MACS[name]} for name, size in STUDENTS.items()},
        "plan_slots": STEPS * BATCH,
    }


def fake_scores(*, with_judge: bool = True) -> list[CaseScore]:
    """Scores that grow with the step; one undefined value; the teacher above all."""
    rng = random.Random(3)
    rows = []
    models = [(name, step) for name in STUDENTS for step in (20, 40)] + [("", -1)]
    metrics = ["dice_all", "dice_ed", "dice_es", "iou_all", "dice_teacher", "temporal_dice", "afd_ed", "afd_es"]
    metrics += ["ed_error_frames", "es_error_frames", "ef_area"] + ["judge_score"] * with_judge
    for student, step in models:
        for case in range(CASES):
            for metric in metrics:
                if metric == "dice_teacher" and not student:
                    continue
                value = 0.95 - (0.2 if student == "c11" else 0.08) * 20 / max(step, 8) + 0.05 * rng.random()
                if "afd" in metric or "error" in metric:
                    value = 3 * rng.random()
                if metric == "ef_area":
                    value = 25.0 + 3 * case + 6 * rng.random()
                if metric == "afd_ed" and case == 2:
                    value = math.nan
                reference = {"judge_score": JUDGE, "dice_teacher": "teacher", "temporal_dice": ""}.get(metric, "truth")
                clip = f"fake-s1-i{case}-e0-w0"
                rows.append(CaseScore(clip, TEACHER, student, step, metric, reference, "", 0.5, value, 3))
    return rows


def write_manifest(storage: RunStorage, step: int, ledger: list[str], quarantine: list[str]) -> None:
    folder = f"checkpoints/step_{step:08d}"
    values = {"step": step, "folder": folder, "students": list(STUDENTS), "files": {}, "ledger": ledger}
    storage.write(f"{folder}/manifest.json", json.dumps({**values, "quarantine": quarantine, "meta": {}}).encode())


def write_training(storage: RunStorage) -> list[StageSpan]:
    """Ledger, quarantine, logs and two published checkpoints; returns the spans."""
    for number, (first, last) in enumerate([(0, 80), (80, 160), (160, 176)]):
        rows = [
            LedgerRow(s, s + (160 if s == 5 else 0), f"fake-{s}", 0, 0, s // BATCH, 0, "a0") for s in range(first, last)
        ]
        schemas.write_records(storage, f"ledger/part-{number}.parquet", rows)
    no_case = Quarantined(-1, 3, "fake-case-3", "evaluator", "too short")
    bad = Quarantined(5, 5, "fake-5", "source", "fake-5.avi has 71 frames, its header says <176>")
    schemas.write_records(storage, "quarantine/part-0.parquet", [bad])
    schemas.write_records(
        storage, "quarantine/part-loose.parquet", [bad, Quarantined(9, 9, "fake-9", "teacher", "nan"), no_case]
    )
    write_manifest(storage, 20, ["ledger/part-0.parquet"], ["quarantine/part-0.parquet"])
    write_manifest(storage, 40, ["ledger/part-0.parquet", "ledger/part-1.parquet"], ["quarantine/part-0.parquet"])
    logs = [
        {
            "student": n,
            "step": s,
            "loss": 0.5 / (1 + s) + 0.02,
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "time": BEGIN + s,
        }
        for s in range(1, STEPS + 1)
        for n in STUDENTS
    ]
    storage.write_table("logs/training-0.parquet", logs, schemas.TRAINING_SCHEMA)
    spans = [StageSpan("teacher", f"teacher-{s % 2}", BEGIN + s, BEGIN + s + 0.7, 4, 64) for s in range(STEPS)]
    spans += [StageSpan("source", f"source-{s % 2}", BEGIN + s - 0.5, BEGIN + s + 0.2, 4, 64) for s in range(STEPS)]
    spans += [StageSpan("students", "rank-0", BEGIN + s + 1, BEGIN + s + 1.6, 4, 64) for s in range(STEPS)]
    spans += [StageSpan("students", "rank-0", BEGIN + 3.2, BEGIN + 5.1, 4, 64)]
    spans += [StageSpan("evaluator", "evaluator-0", BEGIN + s, BEGIN + s + 9, 10, 480) for s in (21, 41)]
    schemas.write_records(storage, "logs/spans-0.parquet", spans[:50])
    schemas.write_records(storage, "logs/spans-1.parquet", spans[45:])  # five rows were logged twice
    return spans


def fake_run(folder: object, *, with_judge: bool = True, with_overlay: bool = False) -> RunStorage:
    storage = RunStorage(str(folder))
    judge = "embedded" if with_judge else "none"
    storage.write("config.yaml", yaml.safe_dump(fake_config(judge=judge)).encode())
    storage.write("run.json", json.dumps(fake_run_json()).encode())
    write_training(storage)
    scores = fake_scores(with_judge=with_judge)
    schemas.write_records(storage, "scores/part-0.parquet", scores[: len(scores) // 2])
    schemas.write_records(storage, "scores/part-1.parquet", scores[len(scores) // 2 :])
    schemas.write_records(storage, "scores/part-2.parquet", scores[:30])  # an evaluator came back and scored again
    cases = [schemas.case_row(fake_case(i)) for i in range(CASES)]
    storage.write_table("cases.parquet", cases, schemas.CASE_SCHEMA)
    if with_overlay:
        for index in range(2):
            case = fake_case(index, size=56)
            truth = case.truth_labels == 1
            masks = {"teacher": np.roll(truth, 1, 2), "student": np.roll(truth, 2, 1)}
            drawing = overlays.draw_overlay(case.video, {**masks, "truth": truth})
            storage.write(f"overlays/c31-{index:04d}.mp4", encode_mp4(drawing, case.fps))
    return storage


def values_of(scores: list[CaseScore], student: str, step: int, metric: str) -> dict[str, float]:
    return {r.clip_id: r.value for r in scores if (r.student, r.step, r.metric) == (student, step, metric)}


def test_summary_scores_are_the_means_of_the_last_step(tmp_path):
    summary, scores = build_summary(fake_run(tmp_path)), fake_scores()
    for student, step in [("c31", 40), ("c11", 40), ("", -1)]:
        found = summary["students"][student]["scores"] if student else summary["teacher"]["scores"]
        for metric in ("dice_all", "afd_ed", "judge_score", "temporal_dice"):
            values = [v for v in values_of(scores, student, step, metric).values() if not math.isnan(v)]
            assert found[metric]["n"] == len(values) == (9 if metric == "afd_ed" else 10)
            assert found[metric]["mean"] == pytest.approx(math.fsum(values) / len(values), abs=1e-12)
            assert min(values) < found[metric]["low"] < found[metric]["mean"] < found[metric]["high"] < max(values)
    assert "ef_area" not in summary["students"]["c31"]["scores"]  # an ingredient, not a score
    assert "dice_teacher" not in summary["teacher"]["scores"]


def test_summary_ef_metrics_join_scores_and_cases(tmp_path):
    found = build_summary(fake_run(tmp_path))["students"]["c31"]["scores"]
    predicted = values_of(fake_scores(), "c31", 40, "ef_area")
    pairs = [(predicted[f"fake-s1-i{i}-e0-w0"], 30.0 + 4 * i) for i in range(CASES)]
    x, y = zip(*pairs, strict=True)
    assert found["ef_pearson"]["mean"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert found["ef_mae"]["mean"] == pytest.approx(sum(abs(a - b) for a, b in pairs) / CASES, abs=1e-12)
    assert found["ef_mae"]["low"] < found["ef_mae"]["mean"] < found["ef_mae"]["high"]
    assert found["ef_pearson"]["low"] < found["ef_pearson"]["mean"] <= found["ef_pearson"]["high"] <= 1
    assert found["ef_pearson"]["n"] == found["ef_mae"]["n"] == CASES


def test_summary_ledger_counts_only_parts_that_a_manifest_names(tmp_path):
    storage = fake_run(tmp_path)
    assert build_summary(storage)["ledger"] == {"clips": 160, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 2}
    rows = [LedgerRow(s, s, f"fake-{s}", 0, 0, 40, 0, "a1") for s in (3, 3, 4)]
    schemas.write_records(storage, "ledger/part-9.parquet", rows)
    assert build_summary(storage)["ledger"]["repeated"] == 0  # void: no manifest names it
    write_manifest(storage, 41, ["ledger/part-9.parquet"], [])
    assert build_summary(storage)["ledger"]["repeated"] == 3
    (tmp_path / "checkpoints/step_00000040/manifest.json").unlink()
    counts = build_summary(storage)["ledger"]
    assert counts == {"clips": 80, "lost": 80, "to_come": 0, "repeated": 3, "quarantined": 2}


@pytest.mark.parametrize("run", [None, {"stopped": "stopped by SIGTERM"}, {"error": "it failed"}])
def test_slots_of_updates_that_no_checkpoint_has_are_to_come_and_not_lost(tmp_path, run):
    storage = fake_run(tmp_path)
    for path in (tmp_path / "checkpoints").glob("step_*"):
        if path.name > "step_00000020":
            (path / "manifest.json").unlink()
    if run is None:
        (tmp_path / "run.json").unlink()
    else:
        storage.write("run.json", json.dumps(storage.read_json("run.json") | run).encode())
    counts = build_summary(storage)["ledger"]
    assert (counts["clips"], counts["lost"], counts["to_come"]) == (80, 0, 80)
    rows = read_rows(storage)
    assert "80 of 160 slots of the plan are to come" in ledger_sentence(rows, summarise(rows))
    assert not is_over(storage)


def test_summary_pipeline_agrees_with_a_count_of_milliseconds(tmp_path):
    storage = fake_run(tmp_path)
    pipeline = build_summary(storage)["pipeline"]
    spans = write_training(RunStorage(str(tmp_path / "again")))
    for stage in ("source", "teacher", "students", "evaluator"):
        mine = [span for span in spans if span.stage == stage]
        busy = {
            (s.actor, ms) for s in mine for ms in range(round(1e3 * (s.start - BEGIN)), round(1e3 * (s.end - BEGIN)))
        }
        found = pipeline["stages"][stage]
        assert found["busy_s"] == pytest.approx(len(busy) / 1e3, abs=1e-3)  # floats near 1.7e9 are 2e-7 apart
        assert found["clips"] == sum(span.clips for span in mine)
        assert found["frames"] == sum(span.frames for span in mine)
        lives = [[s for s in mine if s.actor == actor] for actor in {s.actor for s in mine}]
        lives = [(min(s.start for s in own), max(s.end for s in own)) for own in lives]
        assert found["actor_s"] == pytest.approx(sum(end - start for start, end in lives), abs=1e-5)
        assert found["actors"] == max(sum(start <= at < end for start, end in lives) for at, _ in lives)
    assert list(pipeline["stages"]) == ["source", "teacher", "students", "evaluator"]
    assert pipeline["steady_s"] == pytest.approx(STEPS - 1 + 0.6, abs=1e-5)  # from rows, not from run.json's 1.0
    assert (pipeline["wall_s"], pipeline["first_step_s"], pipeline["peak_memory_mb"]) == (61.5, 9.25, 1234.5)


def test_clips_out_of_the_teachers_cache_are_counted_beside_its_own(tmp_path):
    storage = fake_run(tmp_path)
    before = build_summary(storage)["pipeline"]["stages"]
    spans = [StageSpan("teacher_cache", f"teacher-{n}", BEGIN, BEGIN + 99, 3, 48, bytes=900) for n in range(2)]
    spans += [StageSpan("teacher_uncached", "teacher-0", BEGIN, BEGIN + 99, 2, 32, bytes=700)]
    schemas.write_records(storage, "logs/spans-2.parquet", spans)
    after = build_summary(storage)["pipeline"]["stages"]
    known = {"cached_clips": 6, "cache_hit_rate": 6 / 8, "cache_bytes_per_clip": 2500 / 8}
    assert after == {**before, "teacher": {**before["teacher"], **known}}
    said = "75% of the masks of the teacher came out of the cache, which holds 312 bytes a clip."
    assert said in render_report(storage)


def test_spans_of_versions_that_did_not_count_bytes_are_read(tmp_path):
    storage = fake_run(tmp_path)
    before = build_summary(storage)["pipeline"]["stages"]
    rows = [dataclasses.asdict(StageSpan("teacher_cache", "teacher-0", BEGIN, BEGIN + 99, 3, 48))]
    old = pa.schema([field for field in schemas.SPAN_SCHEMA if field.name != "bytes"])
    storage.write_table("logs/spans-2.parquet", ({k: v for k, v in row.items() if k != "bytes"} for row in rows), old)
    after = build_summary(storage)["pipeline"]["stages"]
    assert after == {**before, "teacher": {**before["teacher"], "cached_clips": 3}}


def test_routes_have_counts_of_clips_and_scores_of_cases(tmp_path):
    storage = fake_run(tmp_path)
    assert build_summary(storage)["teacher"]["routes"] == {}
    for name in storage.list("ledger"):
        rows = storage.read_table(name).to_pylist()
        routed = [{**row, "route": "clear" if row["slot"] % 4 == 0 else "hand,both"} for row in rows]
        storage.write_table(name, routed, schemas.LEDGER_SCHEMA)
    cases = storage.read_table("cases.parquet").to_pylist()
    rows = [{**case, "route": "clear" if number < 3 else "hand,both"} for number, case in enumerate(cases)]
    storage.write_table("cases.parquet", rows, schemas.CASE_SCHEMA)
    summary, scores = build_summary(storage), fake_scores()
    routes, ids = summary["teacher"]["routes"], [case["clip_id"] for case in cases[:3]]
    assert {route: facts["clips"] for route, facts in routes.items()} == {"clear": 40, "hand,both": 120}
    own, student = (
        np.mean([values_of(scores, *key, "dice_all")[clip] for clip in ids]) for key in (("", -1), ("c11", 40))
    )
    assert routes["clear"]["scores"]["dice_all"]["mean"] == pytest.approx(own)
    assert routes["clear"]["scores"]["dice_all"]["n"] == 3
    assert summary["students"]["c11"]["strata"]["route"]["clear"]["dice_all"]["mean"] == pytest.approx(student)
    sentence = f"40 clips were taught by clear, with a Dice of {own:.3f} on the cases that go to it."
    assert sentence in teacher_sentences(summary)


def test_members_that_clips_were_taught_without_are_counted_once_their_training_is_published(tmp_path):
    storage = fake_run(tmp_path)
    assert build_summary(storage)["teacher"]["dropped"] == {}
    part = next(name for name in storage.list("ledger"))
    rows = [DroppedMember(slot, slot, f"fake-{slot}", "mine", "lost") for slot in (3, 5)]
    rows += [DroppedMember(3, 3, "fake-3", "<theirs>", "lost")]
    schemas.write_records(storage, part.replace("ledger/part-", "logs/dropped-"), rows)
    schemas.write_records(storage, "logs/dropped-step00000099-rank0-died.parquet", rows)
    summary = build_summary(storage)
    assert summary["teacher"]["dropped"] == {"<theirs>": 1, "mine": 2}
    page = render_report(storage)
    assert "2 clips were taught without mine, which had no usable mask." in page
    assert "1 clip was taught without &lt;theirs&gt;, which had no usable mask." in page


def test_members_of_an_ensemble_stand_before_the_teacher_that_they_make(tmp_path):
    storage = fake_run(tmp_path)
    spans = [StageSpan(f"teacher.{name}", f"t-{name}", BEGIN, BEGIN + 1, 4, 64) for name in ("two", "one")]
    spans += [StageSpan("teacher_uncached.two", "t-two", BEGIN, BEGIN + 1, 4, 64, bytes=40)]
    schemas.write_records(storage, "logs/spans-2.parquet", spans)
    stages = build_summary(storage)["pipeline"]["stages"]
    assert list(stages) == ["source", "teacher.one", "teacher.two", "teacher", "students", "evaluator"]
    assert "cache_hit_rate" not in stages["teacher.one"] | stages["teacher"]
    assert (stages["teacher.two"]["cache_hit_rate"], stages["teacher.two"]["cache_bytes_per_clip"]) == (0, 10)
    assert "0% of the masks of two came out of the cache" in render_report(storage)


def test_summary_json_has_the_keys_of_the_contract(tmp_path):
    storage = fake_run(tmp_path)
    written = write_summary(storage)
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored == written == build_summary(storage)  # the bootstrap is seeded
    contract = {"run", "version", "config_hash", "seed", "students", "teacher", "ledger", "pipeline"}
    assert set(stored) == contract | {"comparisons", "judge", "privacy", "source_notes"}
    assert (stored["run"], stored["version"], stored["seed"]) == ("fake-run", "0.1.0", 7)
    assert {name: s["parameters"] for name, s in stored["students"].items()} == STUDENTS
    assert [s["steps"] for s in stored["students"].values()] == [40, 40]
    assert stored["teacher"]["id"] == TEACHER
    assert set(stored["students"]["c31"]["scores"]["dice_ed"]) == {"mean", "low", "high", "n"}
    assert set(stored["pipeline"]["stages"]["teacher"]) == {"busy_s", "clips", "frames", "actors", "actor_s", "nodes"}


def test_actors_of_several_segments_are_counted_while_they_are_there(tmp_path):
    """Two at a time on one node, in three segments of 100 s with other actors each, one of them lost half-way."""
    storage, spans = fake_run(tmp_path), []
    for segment in range(3):
        for actor in range(2):
            start, length = 1e9 + 100 * segment, 50 if segment == actor == 1 else 100
            name = f"teacher.a-b-abc123-{10 * segment + actor}"
            spans += [StageSpan("teacher.a-b", name, start + s, start + s + 10, 1, 1) for s in range(0, length, 20)]
    storage.write_table("logs/spans-more.parquet", map(vars, spans), schemas.SPAN_SCHEMA)
    found = build_summary(storage)["pipeline"]["stages"]["teacher.a-b"]
    assert (found["actors"], found["nodes"], found["clips"]) == (2, 1, 28)
    assert found["actor_s"] == pytest.approx(5 * 90 + 50)


def test_summary_of_a_metric_without_a_finite_value_is_null(tmp_path):
    storage = RunStorage(str(tmp_path))
    storage.write("config.yaml", yaml.safe_dump(fake_config()).encode())
    row = CaseScore("fake", TEACHER, "c31", 20, "afd_ed", "truth", "frames", 0.5, math.nan, 2)
    schemas.write_records(storage, "scores/part-0.parquet", [row])
    score = write_summary(storage)["students"]["c31"]["scores"]["afd_ed"]
    assert score == {"mean": None, "low": None, "high": None, "n": 0}


def test_a_folder_that_is_no_run_and_a_missing_part_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"empty is not a run folder: it holds no config\.yaml"):
        build_summary(RunStorage(str(tmp_path / "empty")))
    storage = fake_run(tmp_path / "run")
    (tmp_path / "run/ledger/part-1.parquet").unlink()
    with pytest.raises(InputError, match=r"ledger/part-1\.parquet is missing, but a checkpoint's manifest names it"):
        build_summary(storage)


def test_a_later_row_of_the_same_score_stands(tmp_path):
    storage = RunStorage(str(tmp_path))
    storage.write("config.yaml", yaml.safe_dump(fake_config()).encode())
    for part, value in enumerate([0.1, 0.9]):
        row = CaseScore("fake", TEACHER, "c31", 20, "dice_all", "truth", "", 0.5, value, 2)
        schemas.write_records(storage, f"scores/part-{part}.parquet", [row])
    assert read_rows(storage).scores["value"].to_pylist() == [0.9]


@pytest.mark.parametrize("seed", range(5))
def test_interval_arithmetic_agrees_with_counting(seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 60, (3, 12))
    work = {str(k): np.stack([row, row + rng.integers(1, 9, 12)], axis=1).astype(float) for k, row in enumerate(starts)}
    seconds = Counter()
    for second in range(80):
        busy = sum(any(a <= second < b for a, b in rows) for rows in work.values())
        seconds[busy] += 1
    assert intervals.shared_seconds(work) == {k: float(seconds[k]) for k in (1, 2, 3)}
    for rows in work.values():
        covered = {second for a, b in rows for second in range(int(a), int(b))}
        assert intervals.length(rows) == len(covered)
        merged = intervals.union(rows)
        assert (merged[1:, 0] > merged[:-1, 1]).all()
    assert intervals.length(np.zeros((0, 2))) == 0


class Page(HTMLParser):
    """Collects text, resource references, ids, and checks that elements close in order."""

    VOID = frozenset(["meta", "img", "br", "link", "input"])

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.references += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data", "srcset")]
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def checked_page(storage: RunStorage) -> Page:
    return check_page(render_report(storage))


def check_page(html: str) -> Page:
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    page = Page(html)
    assert page.tags["script"] == page.tags["link"] == 1  # its own script, and the icon that browsers would ask for
    code = html[html.index("<script>") + 8 : html.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in html or f"script-src 'sha256-{digest}'" in html
    assert all(re.match(r"data:|#|report/[\w-]+\.(csv|svg|pdf|png)$", ref) for ref in page.references)
    assert {ref[1:] for ref in page.references if ref.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    return page


def test_report_of_a_whole_run(tmp_path):
    storage = fake_run(tmp_path, with_overlay=True)
    assert write_report(storage) == f"{tmp_path}/report.html"
    page, summary = check_page((tmp_path / "report.html").read_text()), build_summary(storage)
    assert "This run is complete: each of the 160 slots of the plan was trained exactly once." in page.text
    for name in STUDENTS:
        score = summary["students"][name]["scores"]["dice_all"]
        assert f"{score['mean']:.3f} {score['low']:.3f} … {score['high']:.3f} n 10" in page.text
    assert f"{summary['teacher']['scores']['ef_mae']['mean']:.1f}" in page.text
    assert "174,721" in page.text
    assert TEACHER in page.text
    assert "fake-5.avi has 71 frames, its header says <176>" in page.text  # escaped in the source, whole on the page
    assert "global_batch: 4" in page.text
    assert page.tags["svg"] == 15  # 5 curves, 6 of cost, judge and truth, Bland-Altman, strata, timeline
    assert page.tags["img"] == page.tags["video"] == 2
    assert sum(ref.startswith("data:video/mp4;base64,") for ref in page.references) == 2


def test_report_states_the_overlap_of_stages(tmp_path):
    storage = fake_run(tmp_path)
    spans = write_training(RunStorage(str(tmp_path / "again")))
    first, last = min(s.start for s in spans), max(s.end for s in spans)
    tenths = [
        len({s.stage for s in spans if s.start <= first + t / 100 + 0.005 < s.end})
        for t in range(round(100 * (last - first)))
    ]
    two = sum(k >= 2 for k in tenths) / 100
    four = sum(k == 4 for k in tenths) / 100
    text = checked_page(storage).text
    assert f"at the same time for {two:,.1f} s of them" in text
    assert f"all 4 for {four:,.1f} s" in text


def test_report_without_scores_says_so(tmp_path):
    storage = RunStorage(str(tmp_path))
    storage.write("config.yaml", yaml.safe_dump(fake_config()).encode())
    page = checked_page(storage)
    assert "failed on the way (it holds no run.json): 0 of 160 slots are trained and published so far." in page.text
    assert "No scores yet: no published checkpoint has been evaluated." in page.text
    assert "No training step has been logged yet." in page.text
    assert "No work of any stage has been logged yet." in page.text
    assert "No clip was quarantined." in page.text
    assert "No overlays were drawn in this run." in page.text
    storage.write("config.yaml", yaml.safe_dump(fake_config(enabled=False)).encode())
    assert "This run was not evaluated (evaluation.enabled is false)" in checked_page(storage).text


def test_report_without_a_judge_says_so(tmp_path):
    page = checked_page(fake_run(tmp_path, with_judge=False))
    assert "No judge rated this run, so there is no judge score." in page.text
    assert "No judge has rated this run." in page.text
    assert "No case has both a judge score and a Dice with the truth." in page.text
    assert page.tags["svg"] == 11  # no curve of the judge, no judge against weights, MACs or truth


def test_report_of_a_failed_run_and_of_a_broken_ledger(tmp_path):
    storage = fake_run(tmp_path)
    failed = {**fake_run_json(), "error": "the loss is not finite at step 12"}
    rows = read_rows(storage)
    storage.write("run.json", json.dumps(failed).encode())
    assert "This run failed: the loss is not finite at step 12" in checked_page(storage).text
    short = dataclasses.replace(rows, run={**fake_run_json(), "plan_slots": 170})
    assert notes(short, summarise(short)) == [
        {"kind": "bad", "text": "This run has ended, but 10 of 170 slots of the plan are not trained."}
    ]


def test_overlay_contours_lie_on_the_mask_border():
    case = fake_case(0)
    truth = case.truth_labels == 1
    drawing = overlays.draw_overlay(case.video, {"teacher": truth}, strip=False)
    assert drawing.shape == (24, 128, 128, 3)
    assert drawing.dtype == np.uint8
    red, green, blue = (int("e69f00"[i : i + 2], 16) for i in (0, 2, 4))
    for t in (0, 8):
        y, x = np.nonzero((drawing[t] == (red, green, blue)).all(-1))
        radius = 4 * (7 + 3 * math.cos(2 * math.pi * t / 16))
        distance = np.hypot(x - 63.5, y - 63.5)
        assert len(x) > 2 * math.pi * radius
        assert np.abs(distance - radius).max() < 4  # one pixel of the clip, which is four of the drawing
        inside = np.hypot(*np.mgrid[:128, :128] - 63.5) < radius - 4
        assert (drawing[t][inside][:, 0] == drawing[t][inside][:, 2]).all()  # grey: nothing else is coloured
    plain = overlays.draw_overlay(case.video, {}, strip=False)
    assert np.abs(plain[:, 2::4, 2::4, 0].mean() - case.video.mean()) < 2


def test_overlay_strip_follows_the_area_and_skips_unknown_truth():
    case = fake_case(0)
    truth = case.truth_labels == 1
    gappy = truth.copy()
    gappy[5:20] = False
    drawing = overlays.draw_overlay(case.video, {"student": truth, "truth": gappy})
    strip = drawing[3, 128:]
    assert strip.shape == (overlays.STRIP_PX, 128, 3)
    blue = (strip == (0x56, 0xB4, 0xE9)).all(-1)
    rows = [np.flatnonzero(blue[:, round(t * 127 / 23)]).mean() for t in (8, 12)]
    assert rows[0] > rows[1]  # a smaller area lies lower
    middle = strip[:, round(6 * 127 / 23) : round(18 * 127 / 23)]
    assert not (middle == 255).all(-1).any()
    bars = [np.flatnonzero((frame[128:] == 150).all(-1).all(0)) for frame in drawing]
    assert [int(bar[0]) for bar in bars] == [round(t * 127 / 23) for t in range(24)]


def test_stills_are_the_frames_of_the_video():
    from PIL import Image

    case = fake_case(1)
    truth = case.truth_labels == 1
    drawing = overlays.draw_overlay(case.video, {"teacher": truth})
    stills = np.asarray(
        Image.open(io.BytesIO(overlays.stills_png(encode_mp4(drawing, 32.0), [0, 8, 99], name="a.mp4")))
    )
    wanted = np.concatenate([drawing[t, :128] for t in (0, 8, 23)], axis=1)
    assert stills.shape == wanted.shape
    # H.264 at quality 18 with halved colour: contours blur by a pixel, frames stay themselves.
    assert np.abs(stills.astype(float) - wanted).mean() < 8
    assert np.abs(stills[:, :128].astype(float) - wanted[:, 128:256]).mean() > 16
