"""The training of a learned generator on Ray Train, by as many workers, with the same engines, as students have.

consumes: clips, which the driver gathers in the run's folder / produces: checkpoints of both networks there
waits for: fellow workers, once per step / unblocked by: each other
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import EchoDFKDError, RunError
from echodfkd.models.generators.latent_video import LatentModel
from echodfkd.runtime.cluster.connection import connected, last_sentence, with_absolute_paths
from echodfkd.runtime.student_workers import fit, real_gpu, set_threads, worker_group
from echodfkd.sources.clip_source import ClipSource
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.training.generator.gathered import GatheredClips, gather_clips, read_gathered
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.generator.run import train_generator
from echodfkd.training.generator.stage import Place
from echodfkd.training.teacher.embedded import prepare_folder

WATCH_S = 5.0
"""Seconds between two looks at the newest checkpoints."""


def run_generator_training(
    config: RunConfig,
    source: ClipSource,
    recipe: GeneratorRecipe,
    folder: Path,
    *,
    report: Callable[[str], None],
    save_s: float = 60.0,
) -> tuple[LatentModel, GatheredClips]:
    """Gather clips, and train the generator on a cluster; it goes on after a stop.

    Args:
        config: ``train`` (workers, engine, resources) and ``ray`` are read.
        source: of the training clips.
        recipe: of the training.
        folder: keeps clips, latents and checkpoints; every node must see it.
        report: takes lines of progress.
        save_s: least seconds between two checkpoints.

    Raises:
        EchoDFKDError: one sentence; everything published stays.
    """
    recipe.check()
    folder = folder.absolute()
    prepare_folder(folder, "--resume")
    clips = gather_clips(source, recipe.clips, (recipe.clip_frames, recipe.spec.size), folder, report=report)
    config = with_absolute_paths(config)
    loop = {"config": config, "recipe": recipe, "folder": str(folder), "save_s": save_s}
    with connected(config.ray), _told(folder, recipe, report):
        try:
            outcome = fit(TorchTrainer(_train_loop, train_loop_config=loop, **worker_group(config, f"{folder}/logs")))
        except (TrainingFailedError, RayActorError) as error:
            raise RunError(f"training failed after all restarts: {last_sentence(error)}") from error
    if "failed" in outcome:
        raise RunError(str(outcome["failed"]))
    return train_generator(clips, recipe, Place(str(folder))), clips  # nothing is left to train: it reads the networks


def _train_loop(loop: dict[str, Any]) -> dict[str, Any]:
    """One rank. Returns an empty dictionary, or ``{"failed": sentence}`` of an error that all ranks agree on."""
    config: RunConfig = loop["config"]
    set_threads(config)
    place = Place(
        loop["folder"],
        rank=ray.train.get_context().get_world_rank(),
        device=torch.device("cuda" if real_gpu(config) else "cpu"),
        train=config.train,
        save_s=loop["save_s"],
    )
    try:
        train_generator(read_gathered(Path(place.folder)), loop["recipe"], place)
    except EchoDFKDError as error:
        return {"failed": str(error)}
    return {}


@contextlib.contextmanager
def _told(folder: Path, recipe: GeneratorRecipe, report: Callable[[str], None]) -> Iterator[None]:
    """Report each new checkpoint of either training while the block runs."""
    ended = threading.Event()

    def watch() -> None:
        seen = {"vae": 0, "flow": 0}
        while not ended.wait(WATCH_S):
            for name, steps in (("vae", recipe.vae_steps), ("flow", recipe.flow_steps)):
                newest = latest_checkpoint(RunStorage(f"{folder}/{name}"))
                if newest is not None and newest.step > seen[name]:
                    seen[name] = newest.step
                    report(f"{name} {newest.step}/{steps}  loss {float(str(newest.meta.get('loss'))):.4f}")

    thread = threading.Thread(target=watch, name="checkpoints", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
