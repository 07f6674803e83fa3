"""Train a learned generator on the clips of a source: writes weights, and beside them recipe, scores and samples.

The source is that of --config and key=value, default patients of the phantom without. The workers are those of `train`
(train.workers, train.num_gpus, train.engine ...), on the cluster of `ray`.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import ArgumentParser, run_guarded


def main() -> int:
    """Parse, train, score; the last line is JSON. Not 0 and one sentence on failure."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="YAML file with the source")
    parser.add_argument("--out", type=Path, default=Path("latent_video.safetensors"), help="weights to write")
    parser.add_argument("--resume", type=Path, default=Path("train_generator"), help="folder that keeps the run")
    parser.add_argument("--clips", type=int, default=3072, help="training clips, kept in the folder")
    parser.add_argument("--vae-steps", type=int, default=8000, help="optimiser steps of the autoencoder")
    parser.add_argument("--flow-steps", type=int, default=20_000, help="optimiser steps of the velocity field")
    parser.add_argument("--cases", type=int, default=96, help="held-out clips that it is scored on")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. seed=11 source.domain=wild")
    args = parser.parse_args()
    return run_guarded(lambda: train(args))


def train(args: argparse.Namespace) -> dict[str, Any]:
    """The generator of the arguments."""
    from echodfkd.config.file import load_config
    from echodfkd.evaluation.generator_card import make_generator
    from echodfkd.runtime.cluster.environment import prepare_ray

    config = load_config(args.config, args.overrides, below=_window)
    prepare_ray(config.ray.address)
    from echodfkd.runtime.generator_run import run_generator_training
    from echodfkd.training.generator.recipe import GeneratorRecipe

    recipe = GeneratorRecipe(clips=args.clips, vae_steps=args.vae_steps, flow_steps=args.flow_steps)
    train = functools.partial(run_generator_training, config, folder=args.resume, report=print_line)
    scores = make_generator(config, args.out, recipe, args.cases, train=lambda source, recipe: train(source, recipe))
    return {"ok": True, "scores": scores}


def _window(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The window of the shipped generator, for options that are not given; every config names a student."""
    return {"window": {"frames": 32, "fps": 32.0, "size": 64}, "students": {"none": {"blocks": 3, "layers": 1}}}


if __name__ == "__main__":
    sys.exit(main())
