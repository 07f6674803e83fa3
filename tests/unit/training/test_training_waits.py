"""Where the host waits for the device: in an update nowhere but for the numbers that the workers agree on, in a pass of
the teacher nowhere.

A tensor of the meta device holds no values: what would read them fails, so that it stands for a GPU here.
"""

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from echodfkd.config.sections.objective import TERM_OPTIONS, TermConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.models.students.build import build_student
from echodfkd.models.students.output import StudentOutput
from echodfkd.models.students.recurrences import RECURRENCES
from echodfkd.models.teachers.network_spec import NetworkLayout, NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.training.collectives import sum_over_workers
from echodfkd.training.objective import BatchTensors, Objective, Totals, own_totals
from echodfkd.training.step import accumulate_gradients, check_finite, update
from echodfkd.training.student import make_student
from tests.helpers.training import ENGINES, make_batch, small_config

STUDENTS = {
    "a": StudentConfig(blocks=1, layers=2, filters=3, norm="batch"),
    "b": StudentConfig(blocks=2, layers=1, filters=2, norm="group"),
}
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.nonzero.default}


class Reads(TorchDispatchMode):
    """Counts the operations that hand a tensor's values to the host: on a GPU each waits for all that is queued."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.read.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("engine", ["plain", "zero0"])
def test_an_update_of_a_family_reads_one_vector_from_the_device(engine: str) -> None:
    assert engine in ENGINES
    with Reads() as seen:
        assert torch.ones(2).sum().item() == 2
    assert len(seen.read) == 1
    config = small_config(engine=engine, students=STUDENTS)
    device = torch.device("cpu")
    students = [make_student(config, name, device, None) for name in config.students]
    for step in range(2):  # the first makes room for the moments
        batch = make_batch(range(4 * step, 4 * step + 4))
        with Reads() as before:
            parts = accumulate_gradients(students, [batch], totals=own_totals([batch]), step=step, device=device)
        assert before.read == []
        sums = sum_over_workers(parts.flatten())
        rows = dict(zip(config.students, torch.tensor(sums).view(parts.shape).tolist(), strict=True))
        check_finite(rows, step + 1)
        with Reads() as after:
            assert update(students, 0.01, step + 1) == {}
        # torch's Adam counts its steps on the host, also where the weights lie on a GPU
        steps = [state["step"] for student in students for state in adam_of(student.engine).state.values()]
        assert all(any(tensor is step for step in steps) for tensor in after.read)


def adam_of(engine: Any) -> torch.optim.Adam:
    return engine._adam


INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten._index_put_impl_.default}
MOVES = {torch.ops.aten.to.dtype_layout, torch.ops.aten._to_copy.default}  # with inference mode and without
TERMS = [
    (name, confidence)
    for name, options in TERM_OPTIONS.items()
    for confidence in (("none", "entropy", "teacher") if "confidence" in options else ("none",))
    if name != "features"
]


class Crossings(TorchDispatchMode):
    """Operations of the meta device that take an index, which of a list or an array is a copy that the host waits for,
    or a tensor of the host; and by shape what is moved there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Any] = []
        self.moved: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        found = func(*args, **(kwargs or {}))
        of_host = [tensor for tensor in given if not tensor.is_meta]
        if getattr(found, "is_meta", False) and func in MOVES and of_host:
            self.moved.add(tuple(of_host[0].shape))
        elif getattr(found, "is_meta", False) and (func in INDEXED or of_host):
            self.waits.append(func)
        return found


def test_an_index_and_an_array_of_the_host_are_noticed() -> None:
    tensor = torch.empty(2, 3, device="meta")
    with Crossings() as seen:
        tensor[:, [0, 2]]
        tensor + torch.ones(())
        torch.ones(4).to("meta")
    assert len(seen.waits) == 2
    assert seen.moved == {(4,)}


@pytest.mark.parametrize("places", [(0,), (1,), (2, 0)])
@pytest.mark.parametrize(("name", "confidence"), TERMS)
def test_no_term_makes_the_host_wait(name: str, confidence: str, places: tuple[int, ...]) -> None:
    B, T, S = 2, 3, 8

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    taught = (B, T, 1 if places == (0,) else 3, S, S)
    output = StudentOutput(empty(B, T, len(places), S, S).requires_grad_(), empty(B, T), empty(B))
    batch = BatchTensors(empty(B, T, S, S), empty(*taught), empty(B), empty(B, T), empty(B), empty(*taught))
    objective = Objective(places, 1.0, 1.0, {name: TermConfig(confidence=confidence)}, ("phase", "ef"))
    with Crossings() as seen:
        objective(output, batch, Totals(1.0, 1.0, 1.0)).backward()
    assert seen.waits == []


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_no_student_makes_the_host_wait(recurrence: str, norm: str) -> None:
    student = build_student(blocks=2, layers=2, filters=4, norm=norm, recurrence=recurrence).to("meta").train()
    with Crossings() as seen:
        student(torch.empty(2, 4, 16, 16, dtype=torch.uint8, device="meta")).mask_logits.sum().backward()
    assert seen.waits == []


@pytest.mark.parametrize("normalise", ["fixed", "frame", "clip"])
@pytest.mark.parametrize(
    ("layout", "windows"),
    [
        (NetworkLayout(activation="softmax", channels=(2, 0), num_channels=3), 4),
        (NetworkLayout(fixed_batch=4), 4),
        (NetworkLayout(axes="NCTHW", window_frames=2, activation="softmax", channels=(1,), num_channels=3), 2),
    ],
)
def test_in_a_pass_of_the_teacher_the_host_waits_for_nothing(
    layout: NetworkLayout, windows: int, normalise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # the meta device has none
    network = (nn.Conv2d if layout.axes == "NCHW" else nn.Conv3d)(1, 3, 3, padding=1)
    teacher = TorchTeacher(
        network,
        NetworkSpec(
            "three",
            PixelStatistics((100.0,), (50.0,), normalise),
            input_size=6,
            class_names=("background", *"abc"[: len(layout.channels or "abc")]),
            layout=layout,
            weights_hash="0",
        ),
        device="meta",
        batch_frames=4,
    )
    with Crossings() as seen:
        prob = teacher._prob(np.zeros((3, 4, 8, 8), np.uint8))
    assert prob.shape == (3, 4, len(layout.channels or "abc"), 8, 8)
    assert seen.waits == []
    length = 4 // windows
    own = set() if normalise == "fixed" else {(windows, length, 2)}
    assert seen.moved == {(4, 1, 8, 8)} | own
