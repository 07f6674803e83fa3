"""The work of a generator's actor without Ray: pending clips become pixels, and bad ones are replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from echodfkd.config.sections.augment import AugmentConfig
from echodfkd.config.sections.generator import GENERATORS, GeneratorConfig
from echodfkd.config.sections.source import MixturePart, SourceConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ClipError, RunError
from echodfkd.core.records import StageSpan
from echodfkd.models.generators import build
from echodfkd.models.generators.batched import BatchedGenerator
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.sources.build import build_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.generated.loaded import loaded_generator
from echodfkd.teaching.blocks import make_block
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.teaching.generating import GeneratedPart, fill_block
from echodfkd.teaching.slots import SlotRules

WINDOW = WindowConfig(frames=3, fps=16.0, size=16)
RULES = SlotRules(plan_slots=100, max_attempts=3, video_shape=(3, 16, 16))


class FakeGenerator:
    """A fake: grey levels from the clip's seed. ``bad`` maps the end of a clip's id to what goes wrong."""

    notes = ("a fake",)
    wants_label_map = False

    def __init__(self) -> None:
        self.bad: dict[str, object] = {}
        self.asked: list[list[ClipRequest]] = []
        self.hold = threading.Event()
        self.hold.set()

    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        self.asked.append(list(requests))
        self.hold.wait(20)
        return [self.clip(request) for request in requests]

    def clip(self, request: ClipRequest) -> np.ndarray | ClipError:
        shape = (request.frames, request.size, request.size)
        for end, result in self.bad.items():
            if request.clip_id.endswith(end):
                if isinstance(result, RunError):
                    raise result
                return result  # type: ignore[return-value]
        return np.random.default_rng(request.seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGenerator]:
    generator = FakeGenerator()
    monkeypatch.setitem(GENERATORS, "fake", ())
    monkeypatch.setitem(build._BUILDERS, "fake", lambda options, device, precision: generator)
    loaded_generator.cache_clear()
    yield generator
    loaded_generator.cache_clear()


def fake_source(*, pending: bool, source: SourceConfig | None = None) -> ClipSource:
    return build_source(source or SourceConfig(kind="fake"), WINDOW, seed=5, case_frames=4, pending=pending)


def filled(slots: Sequence[int], rules: SlotRules = RULES, *, batch: int = 1) -> ClipBlock:
    block = make_block(fake_source(pending=True), slots, rules, actor="source-1")
    generator = loaded_generator("fake", GeneratorConfig(batch=batch))
    part = GeneratedPart(fake_source(pending=False), "", generator)
    return fill_block(part, block, rules, stage="generator", actor="generator-1")


def test_a_read_task_draws_and_the_actor_makes_the_clip_of_the_index(fake: FakeGenerator) -> None:
    block = make_block(fake_source(pending=True), [7, 8], RULES, actor="source-1")
    assert block.pending.all()
    assert not block.video.any()
    assert not fake.asked, "a read task calls no generator"
    assert ClipBlock.from_columns(block.to_columns()).pending.all()
    whole = filled([7, 8], batch=8)
    assert not whole.pending.any()
    assert [len(batch) for batch in fake.asked] == [2]
    source = fake_source(pending=False)
    for row, index in enumerate((7, 8)):
        clip = source.clip(index)
        assert clip.clip_id == whole.clip_id[row] == block.clip_id[row]
        assert np.array_equal(clip.video, whole.video[row])
        assert not clip.pending
        assert clip.truth_labels is None
    asked = fake.asked[0][0]
    assert (asked.frames, asked.fps, asked.size) == (3, 16.0, 16)
    assert asked.ef == pytest.approx(clip_ef(source, 7) / 100)
    assert asked.conditions["ef_percent"] == clip_ef(source, 7)
    assert source.case(7).video.shape == (4, 16, 16)
    assert source.case(7).clip_id != source.clip(7).clip_id
    assert fake.asked[-2][0].seed != fake.asked[0][0].seed, "a case has noise of its own"


def clip_ef(source: ClipSource, index: int) -> float:
    ef = source.clip(index).conditions.ef_percent
    assert ef is not None
    return ef


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (ClipError("latents are not finite"), "latents are not finite"),
        (np.full((3, 16, 16), np.nan, np.float32), "the generator gave pixels that are not finite"),
        (np.zeros((3, 16, 16), np.float32), "the generator gave pixels of type float32, grey levels are uint8"),
        (np.full((3, 16, 16), 9, np.uint8), "the generator gave a clip of one grey level, 9"),
        (np.zeros((2, 16, 16), np.uint8), r"the generator gave a clip of shape (2, 16, 16), asked for was (3, 16, 16)"),
    ],
)
def test_a_bad_clip_is_quarantined_and_the_slots_next_index_is_made(
    fake: FakeGenerator, result: object, reason: str
) -> None:
    fake.bad = {"-i4-e0-w0": result, "-i104-e0-w0": result}
    block = filled([3, 4])
    rows = [(row.slot, row.index, row.stage, row.reason) for row in block.quarantined]
    assert rows == [(4, 4, "generator", reason), (4, 104, "generator", reason)]
    assert block.index.tolist() == [3, 204]
    assert block.attempts.tolist() == [1, 3]
    assert np.array_equal(block.video[1], fake_source(pending=False).clip(204).video)
    assert not block.fault
    fake.bad["-i204-e0-w0"] = result
    assert "slot 4 found no usable clip in 3 attempts (data.max_attempts); the last was" in filled([3, 4]).fault


def test_a_clip_that_the_privacy_filter_rejects_is_replaced(fake: FakeGenerator) -> None:
    first = fake_source(pending=False).clip(4).video
    rules = replace(RULES, rejects=lambda video: "it is known" if np.array_equal(video, first) else "")
    block = filled([3, 4], rules)
    assert [(row.index, row.stage, row.reason) for row in block.quarantined] == [(4, "privacy", "it is known")]
    assert block.index.tolist() == [3, 104]


def test_an_error_of_the_whole_generator_is_raised_in_every_block_that_waits(fake: FakeGenerator) -> None:
    fake.bad = {"-i4-e0-w0": RunError("the device is gone")}
    with pytest.raises(RunError, match="the device is gone"):
        filled([3, 4], batch=2)


def test_a_mixture_keeps_its_proportions_and_each_actor_its_own_rows(fake: FakeGenerator) -> None:
    parts = {
        "drawn": MixturePart(weight=2),
        "made": MixturePart(kind="fake"),
        "other": MixturePart(kind="fake", generator=GeneratorConfig(batch=4)),
    }
    mixed = SourceConfig(kind="mixture", parts=parts)
    block = make_block(fake_source(pending=True, source=mixed), range(8), RULES, actor="source-1")
    assert sorted(block.source) == ["drawn"] * 4 + ["made"] * 2 + ["other"] * 2
    assert [name for name, pending in zip(block.source, block.pending, strict=True) if not pending] == ["drawn"] * 4
    whole = fake_source(pending=False, source=mixed)
    for name in mixed.generated:
        before = block
        part = GeneratedPart(whole, name, loaded_generator("fake", parts[name].generator))
        block = fill_block(part, block, RULES, stage=f"generator.{name}", actor="a")
        others = [row for row, own in enumerate(block.source) if own != name]
        assert np.array_equal(block.video[others], before.video[others])
    assert not block.pending.any()
    for row in range(8):
        assert np.array_equal(block.video[row], whole.clip(row).video), block.clip_id[row]


def test_augmentation_before_the_teacher_is_that_of_the_clip_made_at_once(fake: FakeGenerator) -> None:
    rules = replace(RULES, augment=AugmentConfig(gain=0.5, where="before_teacher"), seed=5)
    at_once = make_block(fake_source(pending=False), [2], rules, actor="s")
    assert np.array_equal(filled([2], rules).video, at_once.video)
    assert not np.array_equal(at_once.video, filled([2]).video)


def test_blocks_that_wait_share_a_device_batch_and_divide_its_time(fake: FakeGenerator) -> None:
    generator = BatchedGenerator(fake, 4)
    source = fake_source(pending=False)
    part = GeneratedPart(source, "", generator)
    blocks = [make_block(fake_source(pending=True), range(3 * n, 3 * n + 3), RULES, actor="s") for n in range(4)]
    fake.hold.clear()
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(fill_block, part, blocks[0], RULES, stage="generator", actor="g")]
        while not fake.asked:
            pass
        for block in blocks[1:]:
            done.append(pool.submit(fill_block, part, block, RULES, stage="generator", actor="g"))
        while len(generator._waiting) < 9:
            pass
        fake.hold.set()
        found = [one.result(20) for one in done]
    assert [len(batch) for batch in fake.asked] == [3, 4, 4, 1], "a device batch holds several blocks, or part of one"
    for block in found:
        assert np.array_equal(block.video[2], source.clip(int(block.slot[2])).video)
    spans: list[StageSpan] = [span for block in found for span in block.spans if span.stage == "generator"]
    assert sum(span.clips for span in spans) == 12
    assert sum(span.frames for span in spans) == 36
    ends = sorted((span.start, span.end) for span in spans)
    assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(ends)), "no second is two"


class Decoder:
    """A small network with random weights: noise of the clip's seed -> frames."""

    notes = ()
    wants_label_map = False

    def __init__(self, weights: bytes) -> None:
        self.network = nn.Sequential(nn.ConvTranspose2d(4, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 1, 13))
        self.network.load_state_dict(load(weights))

    @torch.no_grad()
    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        noise = [
            torch.randn(one.frames, 4, 1, 1, generator=torch.Generator().manual_seed(one.seed)) for one in requests
        ]
        grey = self.network(torch.cat(noise))[:, 0].mul(400).add(128).clamp(0, 255).to(torch.uint8).numpy()
        return [*grey.reshape(len(requests), -1, *grey.shape[1:])]


def test_a_clip_is_the_same_on_one_or_four_actors_in_batches_of_one_or_eight(fake: FakeGenerator) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.ConvTranspose2d(4, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 1, 13))
    weights = save(layers.state_dict())
    whole = fake_source(pending=False)

    def videos(actors: int, batch: int) -> np.ndarray:
        loaded = [BatchedGenerator(Decoder(weights), batch) for _ in range(actors)]
        blocks = [make_block(fake_source(pending=True), range(n, n + 8), RULES, actor="s") for n in range(0, 32, 8)]
        with ThreadPoolExecutor(actors) as pool:
            done = [
                pool.submit(
                    fill_block, GeneratedPart(whole, "", loaded[n % actors]), block, RULES, stage="generator", actor="g"
                )
                for n, block in enumerate(blocks)
            ]
            return np.concatenate([one.result(20).video for one in done])

    alone = videos(1, 1)
    assert np.array_equal(videos(4, 1), alone)
    for actors in (1, 4):
        together = videos(actors, 8).astype(int)
        assert np.abs(together - alone).max() <= 1, "a sum over more rows may take another order: one grey level"
    assert len({video.tobytes() for video in alone}) == 32
