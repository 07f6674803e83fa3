"""The work of one generator actor, without Ray: make the pixels of the clips of a block that are still pending."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.core.records import Quarantined, StageSpan
from echodfkd.models.generators.batched import BatchedGenerator, Made
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.generated.source import GeneratedSource
from echodfkd.sources.mixture import MixtureSource
from echodfkd.sources.steering.source import SteeredSource
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.teaching.slots import SlotRules, augmented_video, draw_clip, exhausted


@dataclass(frozen=True)
class GeneratedPart:
    """A run's generated clips: of its whole source, or of the mixture's part of this name.

    ``source`` makes whole clips, with ``generator`` in this process: a clip that takes the place of a bad one is made
    by it, of whichever part. ``wait`` returns once the generator of so many updates is published.
    """

    source: ClipSource
    name: str
    generator: BatchedGenerator
    wait: Callable[[int], None] = lambda step: None

    def request(self, index: int) -> ClipRequest:
        """What the generator is asked for to make clip ``index``."""
        source, number, draw = self.source, index, 0
        if isinstance(self.source, MixtureSource):
            source, number = self.source.part_of(index, is_case=False)
        elif isinstance(self.source, SteeredSource):
            place, source = self.source.place(index), self.source.source
            part, number = self.source.plan.origin(place.index, place.draw)
            source, draw = source.parts[part] if isinstance(source, MixtureSource) else source, place.draw
        assert isinstance(source, GeneratedSource)
        return source.request(number, label_map=self.generator.wants_label_map, attempt=draw)


def fill_block(part: GeneratedPart, block: ClipBlock, rules: SlotRules, *, stage: str, actor: str) -> ClipBlock:
    """Make the pending clips of this part; a bad one is quarantined and replaced. Other rows stay as they are.

    Args:
        part: whose clips.
        block: not changed.
        rules: as in `blocks.make_block`.
        stage: name of this stage in the timeline.
        actor: likewise of this actor.
    """
    rows = [row for row in np.flatnonzero(block.pending).tolist() if not part.name or block.source[row] == part.name]
    if block.fault or not rows:
        return block
    requests = [part.request(int(block.index[row])) for row in rows]
    for step in {request.generator_step or 0 for request in requests} - {0}:
        part.wait(step)  # before the device, which a block that trains this generator may be waiting for
    made = part.generator.make(requests)
    video = block.video.copy()
    bad: dict[int, tuple[str, str]] = {}
    for row, one in zip(rows, made, strict=True):
        assert one.clip is not None
        if isinstance(one.clip, ClipError):
            bad[row] = "generator", str(one.clip)
        elif rules.rejects is not None and (reason := rules.rejects(one.clip)):
            bad[row] = "privacy", reason
        else:
            video[row] = augmented_video(one.clip, rules, index=int(block.index[row]), epoch=int(block.epoch[row]))
    pending = block.pending.copy()
    pending[rows] = False
    block = replace(block, video=video, pending=pending, spans=(*block.spans, *_spans(made, stage, actor)))
    return _replaced(block, bad, part.source, rules)


def _replaced(block: ClipBlock, bad: Mapping[int, tuple[str, str]], source: ClipSource, rules: SlotRules) -> ClipBlock:
    """The block with another clip of the slot in place of each bad one, or with a fault."""
    for row, (where, reason) in bad.items():
        slot = int(block.slot[row])
        found = Quarantined(slot, int(block.index[row]), block.clip_id[row], where, reason)
        draw = draw_clip(source, slot, int(block.attempts[row]), rules)
        block = replace(block, quarantined=(*block.quarantined, found, *draw.quarantined))
        if draw.clip is None:
            return replace(block, fault=draw.fault or exhausted(slot, rules, found))
        block = block.with_clip(row, draw.clip, draw.attempts)
    return block


def _spans(made: Sequence[Made], stage: str, actor: str) -> list[StageSpan]:
    """The device's time for these clips: one span for neighbours in one batch."""
    ends = [place for place, (one, after) in enumerate(pairwise(made), start=1) if after.start != one.end]
    return [
        StageSpan(
            stage,
            actor,
            made[first].start,
            made[last - 1].end,
            last - first,
            sum(o.request.frames for o in made[first:last]),
        )
        for first, last in pairwise([0, *ends, len(made)])
    ]
