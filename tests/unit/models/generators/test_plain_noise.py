"""Plain and guided noise as sources of clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import InputError
from echodfkd.models.generators.build import build_generator
from echodfkd.models.generators.plain_noise import noise_clip
from echodfkd.models.generators.protocol import ClipRequest, Generator
from echodfkd.models.teachers.batch_statistics import BatchStatistics
from echodfkd.models.teachers.graded import graded_teacher
from echodfkd.models.teachers.unet import EmbeddedTeacherNet, load_embedded_teacher
from tests.helpers.generators import write_batch_norm_teacher

REQUEST = ClipRequest("a", seed=2**63 + 11, frames=3, fps=24.0, size=32)


def built(kind: str, **options: object) -> Generator:
    return build_generator(PartConfig(kind=kind, generator=GeneratorConfig(**options)), "cpu", "fp32")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_batch_norm_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


def candidates(seed: int, number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [noise_clip(generator, 3, 32).round() for _ in range(number)]


def test_noise_is_a_function_of_the_clips_seed() -> None:
    others = [replace(REQUEST, seed=seed) for seed in range(7)]
    *_, among = built("noise").generate([*others, REQUEST])
    np.testing.assert_array_equal(among, candidates(REQUEST.seed, 1)[0].numpy())
    assert among.dtype == np.uint8
    assert (among[0] != among[-1]).any(), "it turns into another picture"


def test_guided_noise_is_the_candidate_nearest_to_the_files_statistics(weights: Path) -> None:
    teacher = graded_teacher("embedded", str(weights))
    statistics = BatchStatistics(teacher.network, "mine")
    guided = built("guided", weights=str(weights), steps=4)
    requests = [replace(REQUEST, seed=seed) for seed in range(6)]
    places = []
    for request, found in zip(requests, guided.generate(requests), strict=True):
        shown, distances = candidates(request.seed, 4), []
        for candidate in shown:
            with statistics.watching(1), torch.no_grad():
                teacher.logits(candidate[None])
            distances += statistics.distances().tolist()
        places.append(int(np.argmin(distances)))
        np.testing.assert_array_equal(found, shown[places[-1]].numpy())
        np.testing.assert_array_equal(found, guided.generate([request])[0])
    assert len(set(places)) > 1, "not always the same one"


def test_an_embedded_teacher_may_have_batch_normalisation(weights: Path, tmp_path: Path) -> None:
    network = load_embedded_teacher(str(weights))
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules()) == 8
    assert not network.training
    torch.manual_seed(1)
    frames = torch.randn(2, 1, 16, 16)
    alone = network(frames[:1])
    torch.testing.assert_close(network(frames)[:1], alone, rtol=1e-5, atol=1e-6)  # kept statistics, not the batch's
    state = network.state_dict()
    del state["bottom.full_norm.running_var"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(InputError, match=r"teacher.weights: .* first bottom.full_norm.running_var"):
        load_embedded_teacher(str(tmp_path / "less.safetensors"))


def test_a_file_that_cannot_guide_is_named(tmp_path: Path) -> None:
    path = tmp_path / "group.safetensors"
    save_file(EmbeddedTeacherNet(channels=(8, 8)).state_dict(), path)
    with pytest.raises(InputError, match=r"^source.generator.weights: .*group.safetensors keeps no batch statistics"):
        built("guided", weights=str(path))
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"^source.generator.weights: .*group.safetensors cannot be read"):
        built("guided", weights=str(path))
