"""Agreement of a GPU with the CPU. Skipped without a GPU.

Needs torch, numpy, scipy and pytest only; `python -m tests.benchmarks.gpu` runs it on such a machine. On a CPU that
command sets ECHODFKD_TEST_DEVICE=cpu: the same code then runs twice on the CPU, which shows only that it runs.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn

from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.models.students.build import build_student
from echodfkd.models.students.recurrences import RECURRENCES
from echodfkd.models.teachers.network_spec import NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.training.objective import batch_tensors, own_totals
from echodfkd.training.step import LOSS, accumulate_gradients, update
from echodfkd.training.student import make_student
from tests.benchmarks.phantom import LABELS_APART, LEVELS_APART, renderers_apart
from tests.benchmarks.student_step import Training
from tests.benchmarks.timing import exact_products
from tests.helpers.teachers import masks_of
from tests.helpers.training import make_batch, small_config

HERE, THERE = torch.device("cpu"), torch.device(os.environ.get("ECHODFKD_TEST_DEVICE", "cuda"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(THERE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    with exact_products():
        yield


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Make each implicit wait of the host for the GPU an error."""
    if THERE.type == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def teacher(device: torch.device, batch_frames: int = 8) -> TorchTeacher:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    return TorchTeacher(
        network, NetworkSpec("tiny", PixelStatistics((128.0,), (64.0,))), device=device.type, batch_frames=batch_frames
    )


def random_video(clips: int, frames: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (clips, frames, size, size), dtype=np.uint8)


def largest_step(codes: np.ndarray, expected: np.ndarray) -> int:
    """Largest difference in stored levels. Sums in another order may round a mask to the next level."""
    return int(np.abs(codes.astype(int) - expected.astype(int)).max())


def test_the_phantom_is_rendered_alike() -> None:
    labels_apart, levels_apart = renderers_apart(THERE.type, clips=6)
    assert labels_apart <= LABELS_APART
    assert levels_apart <= LEVELS_APART


def test_masks_cross_to_the_host_as_they_were_made() -> None:
    """Copies are asynchronous: with many small passes, a buffer read too early would show."""
    video = random_video(64, 16, 112)
    (expected, _), (codes, faults) = (masks_of(teacher(device), video, (), PROBABILITY) for device in (HERE, THERE))
    assert not faults
    assert largest_step(codes, expected) <= 1


def test_passes_of_the_teacher_are_queued_without_waiting() -> None:
    ours = teacher(THERE)
    with no_waiting():
        assert ours._prob(random_video(4, 16, 32)).shape == (4, 16, 1, 32, 32)


@pytest.mark.skipif(THERE.type == "cpu" and not shutil.which("g++"), reason="no C++ compiler")
def test_a_compiled_teacher_gives_the_same_masks() -> None:
    """In several passes of one block too, although a replayed graph writes each to the same memory."""
    torch._dynamo.reset()
    fast = teacher(THERE)
    fast.compile()
    for clips, frames in ((2, 8), (3, 7), (1, 3), (2, 8)):
        video = random_video(clips, frames, 32)
        expected, _ = masks_of(teacher(HERE), video, (), PROBABILITY)
        codes, faults = masks_of(fast, video, (), PROBABILITY)
        assert not faults
        assert largest_step(codes, expected) <= 1


def test_a_batch_arrives_as_it_was() -> None:
    batch = make_batch([0, 1, 2, 3])
    here, there = (batch_tensors(batch, device) for device in (HERE, THERE))
    assert torch.equal(there.video.cpu(), here.video)
    assert torch.equal(there.weight.cpu(), here.weight)
    torch.testing.assert_close(there.mask_prob.cpu(), here.mask_prob)


def losses(device: torch.device, student: StudentConfig, *, steps: int, resumes: bool) -> list[float]:
    """Losses of a student's updates. ``resumes``: rebuild the student from its state after each update."""
    config = small_config(students={"a": student}, size=16)
    own = make_student(config, "a", device, None)
    found = []
    for step in range(steps):
        batch = make_batch([4 * step + place for place in range(4)], 16)
        parts = accumulate_gradients([own], [batch], totals=own_totals([batch]), step=step, device=device)
        found.append(float(parts[0, LOSS]))
        update([own], 1e-2, step + 1)
        assert own.timer.take()() > 0
        if resumes:
            own = make_student(config, "a", device, own.state())
    return found


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_a_student_learns_what_it_learns_on_a_cpu(recurrence: str, norm: str, resumes: bool) -> None:
    """Rounding errors grow from update to update: Adam divides by the gradient's magnitude."""
    student = StudentConfig(blocks=2, layers=1, filters=4, norm=norm, recurrence=recurrence)
    expected = losses(HERE, student, steps=5, resumes=False)
    assert losses(THERE, student, steps=5, resumes=resumes) == pytest.approx(expected, rel=5e-3)
    assert expected[-1] < expected[0]


def test_an_update_waits_only_for_the_agreement_of_the_workers() -> None:
    config = small_config(students={name: StudentConfig(blocks=2, layers=1, filters=3) for name in "ab"})
    students = [make_student(config, name, THERE, None) for name in config.students]
    for step in range(3):  # the first one allocates Adam's moments and loads kernels
        batch = make_batch([4 * step + place for place in range(4)])
        with no_waiting() if step else contextlib.nullcontext():
            parts = accumulate_gradients(students, [batch], totals=own_totals([batch]), step=step, device=THERE)
            update(students, 1e-2, step + 1)
        assert parts[:, LOSS].min() > 0


@pytest.mark.skipif(THERE.type == "cpu", reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("bf16", [False, True])
def test_a_captured_step_trains_as_an_eager_one(bf16: bool) -> None:
    video = torch.randint(0, 256, (2, 4, 16, 16), dtype=torch.uint8, device="cuda")
    target = torch.rand(2, 4, 16, 16, device="cuda")
    found = []
    for graph in (False, True):
        torch.manual_seed(0)
        student = build_student(blocks=2, layers=1, filters=4, norm="batch")
        training = Training(student, video, target, bf16=bf16, graph=graph)
        for _ in range(6 if graph else 9):  # three steps warm up before the capture, which computes nothing
            training.timed_step()
        found.append(float(training.loss))
    assert found[1] == pytest.approx(found[0], rel=1e-2 if bf16 else 1e-4)
