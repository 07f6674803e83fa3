"""Compiled generators: the same clips, and a sentence where nothing can be compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config

from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import RunError
from echodfkd.models.generators.build import build_generator
from echodfkd.models.generators.protocol import ClipRequest, Generator
from echodfkd.models.generators.schedulers import Sampling, place_network
from tests.helpers.generators import write_tiny_latent_video

REQUEST = ClipRequest("a", seed=5, frames=4, fps=32.0, size=32, ef=0.6)


def built(weights: Path, *, compile: bool) -> Generator:
    options = GeneratorConfig(weights=str(weights), steps=2, compile=compile)
    return build_generator(PartConfig(kind="latent_video", generator=options), "cpu", "fp32")


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("compiler")
def test_a_compiled_generator_makes_the_same_clips(tmp_path: Path) -> None:
    weights = write_tiny_latent_video(tmp_path / "latent.safetensors")
    plain, fast = (built(weights, compile=compile) for compile in (False, True))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for requests in ([REQUEST], [REQUEST, replace(REQUEST, seed=6, ef=0.3)]):
        for expected, found in zip(plain.generate(requests), fast.generate(requests), strict=True):
            assert isinstance(expected, np.ndarray)
            assert isinstance(found, np.ndarray)
            assert expected.std() > 0
            assert np.abs(found.astype(int) - expected).max() <= 1  # the same sums, fused
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before, "something was compiled"


@pytest.mark.usefixtures("compiler")
def test_without_a_compiler_the_option_is_named() -> None:
    network = place_network(torch.nn.Linear(2, 2), Sampling(compile=True))
    nowhere = {"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}
    words = r"^source\.generator\.compile: torch cannot compile the Linear here.*=false$"
    with torch._inductor.config.patch(nowhere), pytest.raises(RunError, match=words):
        network(torch.ones(1, 2))
