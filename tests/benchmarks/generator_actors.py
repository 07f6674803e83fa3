"""Clips a second of the learned generator on one and on four actors, in device batches of one and of eight."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.teaching.clip_block import ClipBlock
from tests.benchmarks.throughput import cluster_of_stand_ins, stream_through
from tests.benchmarks.timing import Report

BLOCK, BLOCKS, SETTLE = 4, 16, 8
"""Clips of a block, blocks that are timed, and blocks before them."""
ACTORS, BATCHES = (1, 4), (1, 8)
TIMED = ("window.frames=16", "window.size=64", "source.generator.steps=8", "source.generator.guidance=1")


def pool_config(folder: str, actors: int, batch: int, *overrides: str) -> RunConfig:
    """A run whose clips the shipped generator makes, with so many actors and so many clips in a device batch."""
    pool = f"num_cpus: 0.5, min_actors: {actors}, max_actors: {actors}, batch: {batch}"
    return load_config(
        None,
        [f"storage={folder}", f"name=a{actors}b{batch}", "students.a.blocks=2", f"train.global_batch={BLOCK}",
         "data.ahead_mb=4", "window.fps=16", "evaluation.source.kind=phantom", "evaluation.enabled=false",
         f"source={{kind: latent_video, generator: {{{pool}}}}}", *overrides],
    )  # fmt: skip


def made_blocks(config: RunConfig) -> Iterator[ClipBlock]:
    """The blocks of the run's stream as they leave the generator's actors."""
    with stream_through([], config) as columns:
        yield from map(ClipBlock.from_columns, columns)


def made_clips(config: RunConfig) -> dict[str, np.ndarray]:
    """Id -> video of all clips of the run's stream."""
    return {
        name: video for block in made_blocks(config) for name, video in zip(block.clip_id, block.video, strict=True)
    }


def generator_actors(report: Report, *, quick: bool) -> dict[str, Any]:
    """Clips a second of a generator on 1 and 4 actors, batch 1 and 8."""
    blocks = BLOCKS // 4 if quick else BLOCKS
    rows: list[dict[str, Any]] = []
    first: dict[str, np.ndarray] = {}
    report(f"{'actors':>6}{'batch':>7}{'clips/s':>9}  largest difference from one actor and batch 1, grey levels")
    with tempfile.TemporaryDirectory() as folder, cluster_of_stand_ins():
        for actors, batch in itertools.product(ACTORS, BATCHES):
            steps = f"train.steps={SETTLE + blocks + 2 * max(ACTORS)}"
            config = pool_config(folder, actors, batch, *TIMED, steps)
            found: dict[str, np.ndarray] = {}
            times = []
            for block in made_blocks(config):
                times.append(time.monotonic())
                found.update(zip(block.clip_id, block.video, strict=True))
            pace = BLOCK * blocks / (times[SETTLE + blocks] - times[SETTLE])
            first = first or found
            gap = max(int(np.abs(found[name].astype(int) - first[name]).max()) for name in first)
            rows.append({"actors": actors, "batch": batch, "clips_s": pace, "difference": gap})
            report(f"{actors:>6}{batch:>7}{pace:>9.2f}  {gap}")
    exact = all(row["difference"] <= (row["batch"] > 1) for row in rows)
    gain = max(row["clips_s"] for row in rows[2:]) / rows[0]["clips_s"]
    return {"value": gain, "target": None, "holds": exact, "rows": rows}
