"""Distillation without data: shares, the bounded gap, batch statistics, exact resume, and what a painter learns."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.generators.build import build_generator
from echodfkd.models.generators.map_painter import painter_noise
from echodfkd.models.generators.painted import load_painter, write_painter
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.batch_statistics import BatchStatistics
from echodfkd.models.teachers.graded import GradedTeacher
from echodfkd.training.conversion import find_student
from echodfkd.training.datafree.play import DataFreeRun, bounded_gap, guided_weights
from echodfkd.training.datafree.run import distil_without_data, read_shares
from echodfkd.training.datafree.settings import DataFreeSettings
from echodfkd.training.teacher.keeper import Keeper

SETTINGS = DataFreeSettings(
    shares={"conditions": 0.25, "noise": 0.25, "adversarial": 0.25, "guided": 0.25},
    steps=4,
    batch=2,
    frames=3,
    size=16,
    seed=4,
    candidates=3,
)


def teacher() -> GradedTeacher:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1))
    network.train()
    network(torch.randn(64, 1, 16, 16) * 2 + 1)
    return GradedTeacher(network.eval().requires_grad_(False), mean=35.0, std=43.0)


def drawn(slot: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(slot)
    y, x = np.mgrid[:16, :16] - 8
    mask = np.stack([x**2 + y**2 < radius**2 for radius in (5, 4, 3)])
    return rng.integers(0, 256, (3, 16, 16), dtype=np.uint8), mask


def run_of(settings: DataFreeSettings, folder: Path | None = None) -> DataFreeRun:
    torch.manual_seed(2)
    student = build_student(blocks=2, layers=1, filters=4)
    keeper = Keeper(folder, {"seed": settings.seed}, every_seconds=0.0) if folder else None
    return DataFreeRun(student, teacher(), drawn, settings, keeper=keeper)


def weights(run: DataFreeRun) -> dict[str, torch.Tensor]:
    return run._state.network.state_dict()


def test_shares_are_exact_at_every_point() -> None:
    settings = replace(SETTINGS, shares={"noise": 0.3, "adversarial": 0.7}, steps=50)
    kinds = settings.kinds()
    for n in range(1, 101):
        assert abs(kinds[:n].count("noise") - 0.3 * n) <= 1.0, n
    assert Counter(kinds) == {"noise": 30, "adversarial": 70}
    for shares, words in (({"noise": 0.5}, "sum to 1"), ({"nosie": 1.0}, "got nosie, allowed are conditions, noise")):
        with pytest.raises(ConfigError, match=words):
            replace(SETTINGS, shares=shares).check()
    with pytest.raises(ConfigError, match="bound: got 0"):
        replace(SETTINGS, bound=0.0).check()


def test_a_resumed_run_makes_the_same_clips_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = run_of(SETTINGS)
    whole.run()
    first = run_of(SETTINGS, tmp_path)
    first.step()
    first.step()  # and stops here
    second = run_of(SETTINGS, tmp_path)
    assert second.generator_step == 1
    second.run()
    assert first.clip_ids + second.clip_ids == whole.clip_ids
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(second)[name], value, rtol=0, atol=0, msg=name)
    painted = [name for name in whole.clip_ids if name.startswith("adversarial")]
    assert painted == ["adversarial-s4-i2-g1", "adversarial-s4-i6-g2"]  # the painter's updates are in the identity


def test_the_gap_is_bounded() -> None:
    teacher_prob = torch.zeros(2, 1, 4, 4)
    teacher_prob[:, :, :2] = 1.0
    student_prob = teacher_prob.clone()
    student_prob[0, :, 1] = 0.0  # one of two rows is missing
    student_prob[1] = 1.0 - teacher_prob[1]
    student_prob.requires_grad_()
    gap = bounded_gap(teacher_prob, student_prob, 0.5)
    assert gap.tolist() == [pytest.approx(4 / (8 + 4 + 1)), 0.5]  # squares that differ, over both areas plus 1
    gap.sum().backward()
    assert student_prob.grad is not None
    assert student_prob.grad[0].abs().sum() > 0
    assert student_prob.grad[1].abs().sum() == 0  # above the bound nothing more is to be won


def test_distances_to_batch_statistics_are_those_of_the_formula() -> None:
    graded = teacher()
    conv, norm = graded.network[0], graded.network[1]  # type: ignore[index]
    video = torch.rand(2, 3, 16, 16) * 255
    statistics = BatchStatistics(graded.network, "mine")
    with statistics.watching(2), torch.no_grad():
        graded.logits(video)
    with torch.no_grad():
        features = conv((video.flatten(0, 1)[:, None] - 35.0) / 43.0).view(2, 3, 8, 256).transpose(1, 2).flatten(2)
    expected = (features.mean(2) - norm.running_mean).norm(dim=1) / norm.running_mean.norm()
    expected += (features.var(2, correction=0) - norm.running_var).norm(dim=1) / norm.running_var.norm()
    torch.testing.assert_close(statistics.distances(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"teacher.kind: embedded keeps no batch statistics"):
        BatchStatistics(nn.Sequential(nn.GroupNorm(1, 2)), "teacher.kind: embedded")


def test_a_guided_clip_is_the_nearest_candidate() -> None:
    run = run_of(replace(SETTINGS, shares={"guided": 1.0}))
    (found, distance), candidates = run.clip(0), torch.stack([run._noise(0, number) for number in range(3)]).round()
    statistics = BatchStatistics(run._teacher.network, "mine")
    distances = []
    for candidate in candidates:
        with statistics.watching(1), torch.no_grad():
            run._teacher.logits(candidate[None])
        distances += statistics.distances().tolist()
    torch.testing.assert_close(found, candidates[int(np.argmin(distances))], rtol=0, atol=0)
    assert distance == pytest.approx(min(distances), rel=1e-3)  # of whole grey levels, as the student sees them


def test_the_nearest_guided_clip_counts_most_at_first() -> None:
    distances = torch.tensor([2.0, math.nan, 4.0, 3.0])
    assert guided_weights(distances, 0.0).tolist() == [1.0, 1.0, 0.0, 0.5]
    assert guided_weights(distances, 0.5).tolist() == [1.0, 1.0, 0.5, 0.75]
    assert guided_weights(distances, 1.0).tolist() == [1.0] * 4
    assert guided_weights(torch.tensor([math.nan, math.nan]), 0.0).tolist() == [1.0, 1.0]
    assert guided_weights(torch.tensor([2.0]), 0.0).tolist() == [1.0]


def test_the_painter_may_stay_near_the_batch_statistics() -> None:
    run = run_of(replace(SETTINGS, shares={"adversarial": 1.0}))
    near = run_of(replace(SETTINGS, shares={"adversarial": 1.0}, statistics=2.0))
    with torch.no_grad():
        gap = float(near.painter_loss(range(2)) - run.painter_loss(range(2)))
        statistics = BatchStatistics(run._teacher.network, "mine")
        with statistics.watching(2):
            run._teacher.logits(run._paint([0, 1], "painter"))
    assert gap == pytest.approx(2.0 * float(statistics.distances().mean()), rel=1e-4)


def test_the_painter_learns_masks_that_the_teacher_sees() -> None:
    run = run_of(replace(SETTINGS, shares={"adversarial": 1.0}, steps=30, gap=0.0, paint_every=1, painter_rate=1e-2))
    before = float(run.painter_loss(range(2)).detach())
    run.run()
    assert float(run.painter_loss(range(2)).detach()) < 0.8 * before
    assert run.generator_step == 30


def test_a_trained_painter_is_a_generator(tmp_path: Path) -> None:
    run = run_of(replace(SETTINGS, shares={"adversarial": 1.0}))
    run.step()
    path = tmp_path / "painter.safetensors"
    write_painter(path, run.painter)
    generator = build_generator(PartConfig(kind="painted", generator=GeneratorConfig(weights=str(path))), "cpu", "fp32")
    request = ClipRequest("a", seed=7, frames=3, fps=32.0, size=16, label_map=drawn(0)[1].astype(np.uint8))
    (clip,) = generator.generate([request])
    with torch.no_grad():
        expected = run.painter(torch.from_numpy(drawn(0)[1])[None], painter_noise([7], 16))[0]
    np.testing.assert_array_equal(clip, expected.round().byte().numpy())
    still = replace(request, label_map=request.label_map[0])  # type: ignore[index]
    assert (generator.generate([still])[0] == clip[0]).all()  # one map stands for all frames
    (refused,) = generator.generate([replace(request, size=15)])
    assert "window.size: got 15, a painter needs an even one" in str(refused)
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"source.generator.weights: .*painter.safetensors is no safetensors file"):
        load_painter(str(path))


def options(*more: str) -> list[str]:
    small = ["window.size=16", "window.frames=3", "train.steps=2", "train.global_batch=2", "students.s.blocks=2"]
    return [*small, "students.s.filters=4", "teacher.batch_frames=8", *more]


def test_one_command_writes_a_student_and_a_painter(tmp_path: Path) -> None:
    config = load_config(None, options("window.size=32"))
    out = tmp_path / "out"
    shares = read_shares(["noise=0.5", "adversarial=0.5"])
    card = distil_without_data(config, shares, str(out), tmp_path / "run", report=lambda line: None)
    assert card["source"]["painter_updates"] == 1
    found = find_student(str(out), "")
    assert found.sha256 == card["sha256"]
    assert found.step == 2
    load_painter(str(out / "painter.safetensors"))
    again = distil_without_data(config, shares, str(out), tmp_path / "run", report=lambda line: None)
    assert again == card  # the run is over: the same command writes the same student
    with pytest.raises(InputError, match=r"teacher.kind: embedded keeps no batch statistics"):
        distil_without_data(config, {"guided": 1.0}, str(out), tmp_path / "other", report=print)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["students.t.blocks=2"], "students: got s, t; training without data takes one"),
        (["students.s.tasks=[ef]", "window.frames=32"], "masks of the left ventricle only"),
        (["teacher.kind=echonet_deeplabv3", "teacher.weights=x.pt"], "teacher.kind: got echonet_deeplabv3, training"),
        (["window.size=20"], "window.size: got 20, training without data needs a multiple of 8"),
    ],
)
def test_what_the_command_cannot_give(more: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        distil_without_data(load_config(None, options(*more)), {"noise": 1.0}, str(tmp_path), tmp_path, report=print)
    with pytest.raises(ConfigError, match=r"--share: got noise, expected KIND=SHARE"):
        read_shares(["noise"])
