"""``precision: auto`` of a run: measured once, kept in the run folder, the same run as the explicit one."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.core import precision as choice
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.judges import build as judges
from echodfkd.models.teachers.build import build_teacher
from echodfkd.runtime import precision
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.storage.files import RunStorage
from echodfkd.teaching import build as teachers
from echodfkd.training.student_precision import student_seconds

ASKED = ["students.a={blocks: 1, layers: 1, filters: 2}", "teacher.precision=auto", "train.precision=auto"]


@pytest.fixture
def measured(monkeypatch):
    """Options that are measured, with bf16 twice as fast for teachers and half as fast for the rest."""
    found: list[tuple[float, int]] = []

    def measure(part: precision.Part) -> dict[str, float]:
        found.append((part.num_cpus, part.threads))
        return {"fp32": 2.0, "bf16": 1.0 if part.measure.func is teachers.teacher_seconds else 4.0}

    monkeypatch.setattr(precision, "_measured", measure)
    monkeypatch.setattr(precision, "connected", lambda options: nullcontext())
    monkeypatch.setattr(precision, "nodes_for", lambda config, say: nullcontext())
    return found


def settle(config, like=""):
    lines: list[str] = []
    with ExitStack() as opened:
        settled, seconds = precision.settle_precision(config, opened, lines.append, like=like)
    return settled, seconds, lines


def test_a_run_with_auto_is_the_run_that_names_what_was_chosen(measured, tmp_path):
    config = load_config(None, [*ASKED, f"storage={tmp_path}", "teacher.num_cpus=3", "train.num_cpus=1.5"])
    settled, _, lines = settle(config)
    assert (settled.teacher.precision, settled.train.precision) == ("bf16", "fp32")
    assert measured == [(3, 3), (1.5, 2)]
    assert lines == [
        "teacher.precision: auto is bf16 (fp32 takes 2.00 of its time), measured now",
        "train.precision: auto is fp32 (bf16 takes 2.00 of its time), measured now",
    ]
    named = load_config(None, [*ASKED[:1], f"storage={tmp_path}", "teacher={precision: bf16, num_cpus: 3}",
                               "train.num_cpus=1.5"])  # fmt: skip
    assert config_hash(settled) == config_hash(named)


def test_a_run_that_has_begun_keeps_its_precision_and_the_runs_of_its_study_take_it(measured, tmp_path):
    config = load_config(None, [*ASKED, f"storage={tmp_path}"])
    settled, seconds, _ = settle(config)
    storage = RunStorage(config.root)
    precision.keep_precision(storage, seconds)
    precision.keep_precision(storage, {"train.precision": {"fp32": 9.0, "bf16": 1.0}})
    measured.clear()
    again, _, lines = settle(config)
    other, _, _ = settle(load_config(None, [*ASKED, f"storage={tmp_path}", "name=second"]), like=config.root)
    assert again == settled
    assert (other.teacher.precision, other.train.precision) == ("bf16", "fp32")
    assert measured == []
    assert all(line.endswith("measured before") for line in lines)
    assert precision.measured_precision(storage)["train.precision"] == "fp32 (bf16 takes 2.00 of its time)"
    storage.write(precision.FILE, b"{")
    with pytest.raises(InputError, match=r"precision.json is not readable JSON"):
        settle(config)
    storage.write(precision.FILE, b'{"train.precision": {"fp32": -1.0, "bf16": 1.0}}')
    settle(config)
    assert len(measured) == 2  # what cannot be a time is measured again


def test_only_what_is_told_auto_is_measured(measured, tmp_path):
    config = load_config(None, [*ASKED[:1], f"storage={tmp_path}"])  # the embedded judge has no precision
    assert settle(config) == (config, {}, [])
    ensemble = load_config(None, [
        *ASKED[:1], f"storage={tmp_path}", "evaluation.judge=echoclip", "teacher.pools=each",
        "teacher={kind: ensemble, members: {x: {precision: auto, num_cpus: 2}, y: {kind: embedded_wild}}}",
    ])  # fmt: skip
    settled, seconds, _ = settle(ensemble)
    assert list(seconds) == ["teacher.members.x.precision", "evaluation.judge_precision"]
    assert settled.teacher.members["x"].precision == "bf16"
    assert settled.teacher.members["y"] == ensemble.teacher.members["y"]
    assert settled.evaluation.judge_precision == "fp32"


def test_a_teacher_of_a_single_process_is_measured_as_it_is_built(monkeypatch):
    config = load_config(None, [*ASKED, "window={frames: 4, size: 16}"])
    monkeypatch.setattr(choice, "MOST_S", 0.0)
    seconds = teachers.teacher_seconds(config.teacher, device="cpu", window=config.window)
    assert set(seconds) == {"fp32", "bf16"}
    assert min(seconds.values()) > 0
    for fast, mark in (("bf16", "_bf16-"), ("fp32", "embedded-")):
        known = {"fp32": 1.0, "bf16": 0.5 if fast == "bf16" else 2.0}
        monkeypatch.setattr(teachers, "teacher_seconds", lambda *of, known=known, **more: known)
        built = teachers.build_configured_teacher(config.teacher, device="cpu", window=config.window)
        assert mark in built.teacher_id


def test_a_gpu_s_teacher_may_take_fp16_and_one_that_overflows_is_left_out(monkeypatch):
    monkeypatch.setattr(choice, "MOST_S", 0.0)
    monkeypatch.setattr(teachers, "pick_device", lambda device, option: device)
    config = load_config(None, [*ASKED, "window={frames: 4, size: 16}"])
    asked, overflowing = [], set()

    def build(model, device, placement):
        asked.append(model.precision)
        faults = {0: "is not finite"} if model.precision in overflowing else {}
        return SimpleNamespace(teach=lambda clips: SimpleNamespace(faults=faults))

    monkeypatch.setitem(teachers.BUILDERS, "embedded", build)
    for left in (["fp32", "bf16", "fp16"], ["fp32", "bf16"]):
        assert list(teachers.teacher_seconds(config.teacher, device="cuda", window=config.window)) == left
        overflowing.add("fp16")
    assert asked == ["fp32", "bf16", "fp16"] * 2
    with pytest.raises(ConfigError, match=r"train.precision: got 'fp16', allowed are fp32, bf16, auto"):
        load_config(None, [*ASKED, "train.precision=fp16"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_masks_in_half_precision_lie_near_those_in_full(precision):
    """A probability p moves by p (1 - p) times its logit's error: at most 0.02 for the 8 bits of bfloat16 here."""
    clips = default_phantom(seed=3, num_frames=4, fps=32.0, size=32, case_frames=4).clip(0).video[None]
    found = {
        name: build_teacher(kind="embedded", weights="", device="cpu", batch_frames=8, precision=name)
        for name in ("fp32", precision)
    }
    full, half = (teacher.teach(clips).masks for teacher in found.values())
    assert 0 < np.abs(half - full).max() < (0.06 if precision == "bf16" else 0.01)
    assert found[precision].teacher_id == found["fp32"].teacher_id.replace("-", f"_{precision}-", 1)


def test_students_are_timed_over_a_whole_step(monkeypatch):
    monkeypatch.setattr(choice, "MOST_S", 0.0)
    config = load_config(None, [*ASKED, "window={frames: 3, size: 16}", "train.global_batch=2"])
    seconds = student_seconds(config, "cpu")
    assert set(seconds) == {"fp32", "bf16"}
    assert min(seconds.values()) > 0


def test_a_judge_of_a_single_process_is_measured_as_it_is_built(monkeypatch):
    asked = []

    def build(weights, device, prompts, options):
        asked.append(options["precision"])

    monkeypatch.setitem(judges._JUDGES, "panecho", build)
    monkeypatch.setattr(judges, "judge_seconds", lambda name, weights, device: {"fp32": 2.0, "bf16": 1.0})
    judges.load_judge("panecho", precision="auto")
    judges.load_judge("embedded", precision="auto")
    assert asked == ["bf16"]
