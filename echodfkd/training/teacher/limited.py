"""Limited teachers: each of several sites trains one on the few labelled clips of its only scanner.

After Ben Loussaief et al., arXiv 2303.09494 ("Adaptive strategy"): none of the teachers is good everywhere, but a
student that learns from all of them may be. Here the sites are the phantom's scanners, and the student learns from any
ensemble of the teachers (`teacher.fusion`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.config.rules.jobs import needs_limited_folder
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.teacher import MemberConfig, TeacherConfig
from echodfkd.core.counter import Counter
from echodfkd.core.records import VideoClip
from echodfkd.core.redaction import dump_json
from echodfkd.metrics.overlap import dice
from echodfkd.metrics.summary import bootstrap_mean
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.models.teachers.unet import EmbeddedTeacherNet
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.teaching.build import build_configured_teacher
from echodfkd.training.teacher.embedded import embedded_recipe, prepare_folder, teacher_card, write_teacher
from echodfkd.training.teacher.supervised import SupervisedRecipe, train_segmentation

SEED_OFFSET = 2_000_003
"""Added to the run's seed for the sites' patients, so that the student's clips and cases show other patients."""

LABELLED_FRAMES = 2
"""Labelled frames of a clip, half a second apart; EchoNet-Dynamic has two of each video as well (ED and ES)."""

ENSEMBLE = "ensemble"
CASE_STRIDE = 4
"""Only every fourth frame of a case is scored, because neighbours are alike."""


def train_limited_teachers(config: RunConfig, *, report: Callable[[str], None]) -> dict[str, Any]:
    """Train one teacher per site, score all of them and their ensemble on held-out cases of every scanner.

    Args:
        config: ``limited``, ``seed``, ``window`` (size of the frames), ``evaluation`` (frames and threshold).
        report: takes lines of progress.

    Returns:
        The content of teachers.json: ``held_out`` is teacher -> scanner -> Dice with interval ("all": every case).

    Raises:
        ConfigError: no folder, an unknown scanner, or frames of a size that the network cannot take.
        InputError: the folder cannot be written.
        RunError: a loss is not finite.
    """
    limited, size = config.limited, config.window.size
    needs_limited_folder(config)
    folder = Path(limited.out)
    prepare_folder(folder, "limited.out")
    trained = {}
    for place, site in enumerate(limited.sites):
        report(f"site {site}: {limited.clips} clips, {limited.steps} steps")
        trained[site] = _train_site(config, place, report)
    files = {site: str(folder / f"{site}.safetensors") for site in limited.sites}
    for site, (network, card) in trained.items():
        write_teacher(Path(files[site]), network, card, "limited.out")
    scores = score_teachers(_teachers(files, limited.fusion), config, report=report)
    for site, (network, card) in trained.items():  # again, now with the scores
        write_teacher(Path(files[site]), network, {**card, "held_out": scores[site]}, "limited.out")
    found = {"limited": asdict(limited), "seed": config.seed, "size": size, "held_out": scores}
    (folder / "teachers.json").write_bytes(dump_json(found, indent=2))
    return found


def site_clips(config: RunConfig, place: int) -> list[VideoClip]:
    """The labelled clips of the site at this place among `limited.sites`: indices that no other site has."""
    source = default_phantom(
        seed=config.seed + SEED_OFFSET,
        num_frames=LABELLED_FRAMES,
        fps=2.0,
        size=config.window.size,
        case_frames=LABELLED_FRAMES,
        domain=config.limited.sites[place],
    )
    first = place * config.limited.clips
    return [source.clip(first + number) for number in range(config.limited.clips)]


def score_teachers(
    teachers: Mapping[str, Teacher], config: RunConfig, *, report: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean Dice of the left ventricle, with a bootstrap 95 % interval over cases: teacher -> scanner, or "all".

    A case's value is the mean over every `CASE_STRIDE`-th of its frames, at `evaluation.threshold`. All teachers see
    the same cases, the same patients in every scanner.
    """
    values: dict[str, dict[str, list[float]]] = {name: {} for name in teachers}
    for domain in config.limited.sites:
        source = default_phantom(
            seed=config.seed + SEED_OFFSET,
            num_frames=1,
            fps=config.window.fps,
            size=config.window.size,
            case_frames=config.evaluation.frames,
            domain=domain,
        )
        with Counter(f"cases of {domain}", config.limited.cases, report) as counter:
            for number in range(config.limited.cases):
                case = source.case(number)
                assert case.truth_labels is not None
                truth = case.truth_labels[::CASE_STRIDE] == case.class_names.index("LV")
                video = case.video[None, ::CASE_STRIDE]
                for name, teacher in teachers.items():
                    mask = teacher.teach(video, classes=("LV",)).masks[0, :, 0] >= config.evaluation.threshold
                    values[name].setdefault(domain, []).append(float(dice(mask, truth).mean()))
                counter.show(number + 1)
    return {
        name: {
            "all": bootstrap_mean(np.concatenate(list(of_teacher.values()))).to_json(),
            **{domain: bootstrap_mean(np.array(dices)).to_json() for domain, dices in of_teacher.items()},
        }
        for name, of_teacher in values.items()
    }


def teachers_table(found: Mapping[str, Any]) -> str:
    """teachers.json as a Markdown table, and the best single teacher."""
    domains = ["all", *found["limited"]["sites"]]
    lines = [f"| teacher | {' | '.join(domains)} |", f"| --- |{' ---: |' * len(domains)}"]
    for name, scores in found["held_out"].items():
        cells = [f"{scores[d]['mean']:.3f} [{scores[d]['low']:.3f}, {scores[d]['high']:.3f}]" for d in domains]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    sites = found["limited"]["sites"]
    best = max(sites, key=lambda site: found["held_out"][site]["all"]["mean"])
    return "\n".join([*lines, "", f"Best on its own: {best}."])


def _train_site(config: RunConfig, place: int, report: Callable[[str], None]) -> tuple[EmbeddedTeacherNet, dict]:
    limited, site = config.limited, config.limited.sites[place]
    clips = site_clips(config, place)
    recipe = _recipe(config, place)
    torch.manual_seed(recipe.seed)
    network = EmbeddedTeacherNet()
    steps = train_segmentation(network, _epochs(clips, recipe.seed), recipe, report=report)
    first = place * limited.clips
    data = (
        f"echodfkd.sources.phantom.source, scanner {site}, seed {config.seed + SEED_OFFSET}, clips {first} .."
        f" {first + limited.clips - 1}, {LABELLED_FRAMES} labelled frames of each; scored on cases 0 .."
        f" {limited.cases - 1} of every scanner"
    )
    return network, teacher_card(network, recipe, steps_done=steps, data=data, held_out={})


def _recipe(config: RunConfig, place: int) -> SupervisedRecipe:
    """The recipe of the shipped teacher, in smaller batches of frames of one size."""
    limited, size = config.limited, config.window.size
    recipe = embedded_recipe(steps=limited.steps, seed=config.seed + place, sizes=(size,), max_seconds=0.0)
    pixels = limited.batch_clips * LABELLED_FRAMES * size * size
    return replace(recipe, batch_pixels=pixels, warmup_steps=min(20, limited.steps))


def _epochs(clips: list[VideoClip], seed: int) -> Callable[[int, int], VideoClip]:
    """Map an index to a clip: epochs of all clips, each in its own random order."""

    def clip(index: int, size: int) -> VideoClip:
        epoch, place = divmod(index, len(clips))
        return clips[int(np.random.default_rng([seed, 2, epoch]).permutation(len(clips))[place])]

    return clip


def _teachers(files: Mapping[str, str], fusion: str) -> dict[str, Teacher]:
    """The ensemble and each of its members, as a run would build them."""
    members = {site: MemberConfig(weights=path) for site, path in files.items()}
    configs = {ENSEMBLE: TeacherConfig(kind="ensemble", fusion=fusion, members=members)}
    configs |= {site: TeacherConfig(weights=path) for site, path in files.items()}
    return {name: build_configured_teacher(one, device="cpu") for name, one in configs.items()}
