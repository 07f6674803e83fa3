"""A compiled teacher: the same masks, in passes of one shape."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
import torch._inductor.config
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, RunError
from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.models.teachers.network_spec import NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.runtime.stream import teacher_pool
from echodfkd.teaching.cache import CachedTeacher
from echodfkd.teaching.frame_memory import FrameMemory
from tests.helpers.teachers import lv_prob, masks_of

FRAMES_A_PASS = 4


def teacher() -> TorchTeacher:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    statistics = PixelStatistics((100.0,), (50.0,))
    return TorchTeacher(network, NetworkSpec("tiny", statistics), device="cpu", batch_frames=FRAMES_A_PASS)


def video(clips: int, frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (clips, frames, 8, 8), dtype=np.uint8)


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.usefixtures("compiler")
def test_compiled_masks_are_those_of_the_network_and_every_pass_has_one_shape() -> None:
    plain, fast = teacher(), teacher()
    fast.compile()
    assert fast.teacher_id == plain.teacher_id
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for clips, frames in ((1, 4), (2, 3), (1, 1), (3, 5)):
        shown = video(clips, frames)
        expected, _ = masks_of(plain, shown, (), PROBABILITY)
        found, faults = masks_of(fast, shown, (), PROBABILITY)
        assert not faults
        # the same sums, fused: their rounding may move a probability over the edge between two levels
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1


@pytest.mark.usefixtures("compiler")
def test_without_a_compiler_the_option_to_change_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    fast = teacher()
    fast.compile()
    with pytest.raises(RunError, match=r"^teacher\.compile: torch cannot compile the network of tiny-.*=false$"):
        lv_prob(fast, video(1, 2))


def test_an_actor_compiles_the_network_behind_what_keeps_its_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, ["students.a={blocks: 1}", "teacher.compile=true"])
    network = teacher()
    kept = CachedTeacher(FrameMemory(network, 1), str(tmp_path), PROBABILITY)
    monkeypatch.setattr(teacher_pool, "load_teacher", lambda config: kept)
    assert teacher_pool.known_teacher(RunConfig(), kept.teacher_id) is kept
    assert network.layout.fixed_batch is None
    assert teacher_pool.known_teacher(config, kept.teacher_id) is kept
    assert network.layout.fixed_batch == FRAMES_A_PASS


def test_compiling_decides_no_number_and_is_refused_where_there_is_nothing_to_compile() -> None:
    students = "students.a={blocks: 1}"
    plain, fast = load_config(None, [students]), load_config(None, [students, "teacher.compile=true"])
    assert config_hash(plain) == config_hash(fast)
    foreign = "teacher={kind: onnx, weights: x.onnx, pixel_mean: [0], pixel_std: [1], compile: true}"
    with pytest.raises(ConfigError, match=r"teacher\.compile: has no effect if teacher\.kind is onnx"):
        load_config(None, [students, foreign])
