"""A student that does not fit its device: one sentence, with the student and the option that helps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from echodfkd.training.plain_engine import PlainEngine
from tests.helpers.training import PAIR, run_training, small_config


def fail_for(student: int, method: Callable) -> Callable:
    """The engine's method; that of the engine of this number raises as torch does on a full GPU."""
    engines: list[object] = []

    def call(engine: PlainEngine, *args: object) -> object:
        if engine not in engines:
            engines.append(engine)
        if engines.index(engine) == student:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation")
        return method(engine, *args)

    return call


@pytest.mark.parametrize("method", ["forward", "backward", "average_gradients", "step"])
def test_the_sentence_names_student_and_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str) -> None:
    monkeypatch.setattr(PlainEngine, method, fail_for(1, getattr(PlainEngine, method)))
    assert run_training(small_config(students=PAIR), tmp_path)["error"] == (
        "student b does not fit the device's memory (CUDA out of memory. Tried to allocate 2.00 GiB.); a larger"
        " train.accumulation cuts the batch into smaller passes, which take less"
    )
