"""Options of `evaluate`: the models that echodfkd evaluate scores."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import MOST_ACTORS, MOST_STEPS, option

EVERY_STEP = -1
"""``evaluate.step`` that takes all published checkpoints."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Models scored on ``evaluation.source``, after training or without any (echodfkd evaluate)."""

    out: str = option("", path="output", identity=False)
    """Folder or fsspec URL that scores/, cases.parquet and summary.json are written to. The same command again scores
    the cases that it lacks."""
    run: str = option("", path="output", identity=False)  # known by its weights, as masks are by their files
    """A run folder, whose students of one checkpoint are scored. Its seed, window, evaluation and teacher are the
    defaults of this command, but for options that name a file or a host."""
    step: int = option(0, least=EVERY_STEP, ceiling=MOST_STEPS)
    """The checkpoint's step; 0 takes the newest, -1 every one."""
    masks: str = option("", path="input", identity=False)
    """A folder of NAME.seg.npz as the authors' scripts write them (uint8, floor(255 p), every frame of the video), for
    sources of kind recorded; or of masks by the cases' ids, as a teacher of kind recorded reads them."""
    annotations: str = option("", path="input")
    """A folder of several readers' tracings (`echodfkd.sources.video.annotations`), for sources of kind recorded."""
    teacher: bool = True
    """Score the teacher as well, and the others against it."""
    agreement: bool = False
    """Also study how the judge agrees with Dice (agreement.json): some fifteen more masks per case for the judge."""
    tune_cases: int = option(0, least=0, ceiling=1_000_000)
    """Cases behind the scored ones on which the threshold of every student (and of masks) is chosen, by Dice over all
    frames: rows tuned_dice_*."""
    actors: int = option(0, least=0, ceiling=MOST_ACTORS, identity=False)
    """Evaluators of a cluster (`ray.address`) that share the cases, with the resources of `evaluation`; 0 scores in
    this process, without Ray."""
