"""Where the host waits for the device in an update: nowhere but for the numbers that the workers agree on."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from echodfkd.config import StudentConfig
from echodfkd.training.collectives import sum_over_workers
from echodfkd.training.objective import own_totals
from echodfkd.training.step import accumulate_gradients, check_finite, make_student, update
from tests.helpers_training import ENGINES, make_batch, small_config

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
