"""Write clips to a folder: one cluster task per shard; committed shards are never made again.

     shards that have no commit record --> tasks (source -> files -> commit record) --> lists, previews, manifest

part      consumes          produces                  waits for          unblocked by
driver    commit records    shard numbers, the lists  a task's end       a task
task      a shard number    files, a commit record    a CPU              the end of another task
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
import torch
import yaml

import echodfkd
from echodfkd.config.file import config_to_yaml
from echodfkd.config.identity import difference
from echodfkd.config.rules.jobs import needs_clips_folder
from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.counter import Counter
from echodfkd.core.errors import RunError
from echodfkd.runtime.cluster.connection import connected, last_sentence, with_absolute_paths
from echodfkd.runtime.cluster.resources import live_nodes
from echodfkd.runtime.stream.builders import synthesis_notes, synthesis_source
from echodfkd.sources.written.preview import animated_preview, preview_sheet
from echodfkd.sources.written.stored import merge_lists, open_folder, pending_shards, write_manifest
from echodfkd.sources.written.writing import Shard, Splits, plan_shards, write_shard
from echodfkd.storage.files import RunStorage
from echodfkd.storage.lease import held

TASK_RETRIES = 3
"""Retries of a task whose process or node died; it writes its files again."""


def run_synthesis(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Write the clips of the config's source to synthesize.out, as far as they are missing there.

    Returns:
        ``{"out", "format", "clips", "quarantined", "made", "wall_s", "clips_s"}``: ``made`` counts the clips of
        this call, ``clips_s`` is their rate.

    Raises:
        EchoDFKDError: one sentence; committed shards stay.
    """
    started = clock.now()
    needs_clips_folder(config)
    config = with_absolute_paths(config)
    options = config.synthesize
    for note in synthesis_notes(config):  # an unusable source is an error before anything starts
        print_line(f"note: {note}")
    storage = open_folder(options.out, identity_of(config), on_exists=config.on_exists)
    with held(storage, lease_s=config.lease_s, log=print_line):
        return _write_clips(config, storage, started, print_line)


def _write_clips(
    config: RunConfig, storage: RunStorage, started: float, print_line: Callable[[str], None]
) -> dict[str, Any]:
    """Write the missing shards while this run holds the folder's lease."""
    options = config.synthesize
    shards = shards_of(config)
    pending, quarantined = pending_shards(storage, shards, layout=options.format)
    print_line(
        f"{options.clips} clips to {options.out}: {len(shards) - len(pending)} of {len(shards)} shards are there"
    )
    made = sum(shard.count for shard in pending)
    with connected(config.ray):
        _check_room(config)
        _write_pending(config, pending, quarantined, print_line)
        manifest = merge_lists(storage, shards, layout=options.format)
        if options.preview and manifest["clips"]:
            print_line("all shards are there; the previews are being drawn")
            drawing = ray.remote(_draw_previews).options(num_cpus=options.num_cpus, num_gpus=options.num_gpus)
            _wait(drawing.remote(config), config)
    write_manifest(storage, manifest)
    wall_s = clock.now() - started
    return {
        "out": options.out,
        "format": options.format,
        "clips": manifest["clips"],
        "quarantined": len(manifest["quarantined"]),
        "made": made,
        "wall_s": round(wall_s, 2),
        "clips_s": round(made / wall_s, 2),
    }


def shards_of(config: RunConfig) -> list[Shard]:
    """The shards of this request."""
    options = config.synthesize
    return plan_shards(clips=options.clips, shard_clips=options.shard_clips, first_index=options.first_index)


def identity_of(config: RunConfig) -> dict[str, Any]:
    """The options that decide the content: a folder holds clips of one request. Values are JSON types."""
    source = yaml.safe_load(config_to_yaml(RunConfig(source=config.source)))["source"]
    for name, part in {"": source, **source.get("parts", {})}.items():
        part.get("conditions", {}).pop("table", None)  # known by the table's sha256
        if "generator" in part:
            part["generator"] = difference(config.source.generated[name].generator)
    decisive = ("format", "clips", "first_index", "frames", "shard_clips", "split", "split_shares")
    return {
        "version": echodfkd.__version__,
        "seed": config.seed,
        "source": source,
        **({"privacy": found} if (found := difference(config.privacy)) else {}),
        "window": {"fps": config.window.fps, "size": config.window.size},
        "synthesize": {name: getattr(config.synthesize, name) for name in decisive},
    }


def max_in_flight(config: RunConfig) -> int:
    """Most unfinished shards given to Ray: in_flight_per_cpu for each task that the cluster can run at once.

    Computed before each submission, so that a growing cluster gets more. Memory is bounded by one shard per running
    task: a waiting task holds only a number.
    """
    options = config.synthesize
    slots = sum(int(node.cpus // options.num_cpus) for node in live_nodes())
    return max(1, slots) * options.in_flight_per_cpu


def _check_room(config: RunConfig) -> None:
    nodes = live_nodes()
    for unit in ("cpus", "gpus"):
        wanted = getattr(config.synthesize, f"num_{unit}")
        largest = max((getattr(node, unit) for node in nodes), default=0.0)
        if wanted > largest:
            raise RunError(
                f"synthesize.num_{unit}: got {wanted:g}, the largest node of the cluster has {largest:g}"
                f" {unit[:-1].upper()}"
            )


def _write_pending(
    config: RunConfig, pending: Sequence[Shard], quarantined: int, print_line: Callable[[str], None]
) -> None:
    """Write every pending shard, at most `max_in_flight` at a time."""
    task = ray.remote(_write_one).options(
        num_cpus=config.synthesize.num_cpus,
        num_gpus=config.synthesize.num_gpus,
        max_retries=TASK_RETRIES,
        scheduling_strategy="SPREAD",
    )
    queue = iter(pending)
    running: dict[Any, Shard] = {}
    standstill, clips = _Standstill(config), config.synthesize.clips
    written = clips - sum(shard.count for shard in pending)
    _check_quarantine(config, quarantined, "")
    try:
        with Counter("clips", clips, print_line, done=written, every_s=config.ray.progress_s) as counter:
            while True:
                for shard in itertools.islice(queue, max(0, max_in_flight(config) - len(running))):
                    running[task.remote(config, shard)] = shard
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                standstill.check(moved=bool(done))
                for reference in done:
                    reasons = _wait(reference, config)
                    quarantined += len(reasons)
                    _check_quarantine(config, quarantined, reasons[-1] if reasons else "")
                    written += running.pop(reference).count
                counter.show(written, f"shards in flight {len(running)} | quarantined {quarantined}")
    finally:
        for reference in running:  # after an error: waiting tasks must not run on in a shared cluster
            ray.cancel(reference)


def _check_quarantine(config: RunConfig, quarantined: int, reason: str) -> None:
    limit, clips = config.data.quarantine_limit, config.synthesize.clips
    if quarantined > limit * clips:
        raise RunError(
            f"{quarantined} indices are quarantined, more than data.quarantine_limit ({limit:g}) of {clips} clips;"
            f" {config.synthesize.out}/shards has the reasons" + (f", one of the last: {reason}" if reason else "")
        )


def _wait(reference: Any, config: RunConfig) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        raise RunError(f"a task that writes to {config.synthesize.out} failed: {last_sentence(error)}") from error


def _write_one(config: RunConfig, shard: Shard) -> list[str]:
    """Task: make, write and commit a shard. Returns the reasons of its quarantined indices."""
    torch.set_num_threads(1)  # sums over several threads round differently: the same bytes on any machine
    options = config.synthesize
    shares = options.split_shares or {options.split: 1.0}
    splits = Splits(clips=options.clips, seed=config.seed, shares=shares)
    record = write_shard(
        RunStorage(options.out),
        synthesis_source(config),
        shard,
        layout=options.format,
        splits=[splits[index - options.first_index] for index in shard.indices],
    )
    return [row["reason"] for row in record["quarantined"]]


def _draw_previews(config: RunConfig) -> None:
    """Task: make some clips, evenly over the list, once more, and draw them."""
    torch.set_num_threads(1)
    storage, source = RunStorage(config.synthesize.out), synthesis_source(config)
    indices = storage.read_table("clips.parquet")["index"].to_numpy()
    wanted = min(config.synthesize.preview, len(indices))
    chosen = indices[np.linspace(0, len(indices) - 1, wanted).round().astype(int)]
    clips = [source.clip(int(index)) for index in chosen]
    storage.write("preview.png", preview_sheet(clips))
    storage.write("preview.mp4", animated_preview(clips))


@dataclasses.dataclass
class _Standstill:
    """The time-out without progress."""

    config: RunConfig

    def __post_init__(self) -> None:
        self.moved = clock.now()

    def check(self, *, moved: bool) -> None:
        """Raise `RunError` if no shard was finished for data.no_progress_timeout_s."""
        now, limit = clock.now(), self.config.data.no_progress_timeout_s
        if moved:
            self.moved = now
        elif limit and now - self.moved > limit:
            raise RunError(
                f"no shard was finished for {limit:g} s (data.no_progress_timeout_s): is the cluster taken by others,"
                f" or are {self.config.synthesize.shard_clips} clips (synthesize.shard_clips) too many for one task?"
            )
