"""Train the shipped teachers on phantom clips, and write their weights and a card of the recipe and the scores."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import CHAMBER_NAMES, CLASS_NAMES, VideoClip
from echodfkd.core.redaction import dump_json
from echodfkd.models.teachers.unet import (
    EMBEDDED_CHANNELS,
    LARGEST_DEPTH,
    LARGEST_WIDTH,
    PIXEL_MEAN,
    PIXEL_STD,
    EmbeddedTeacherNet,
    load_embedded_teacher,
)
from echodfkd.sources.phantom.domains import DOMAIN_NAMES
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.training.teacher.keeper import Keeper, TrainingState
from echodfkd.training.teacher.supervised import SupervisedRecipe, score_cases, train_segmentation

SCORED_SIZES = (56, 112)
"""Sides of the frames that the card's scores are measured on: the published training and inference sizes."""
WATCHED_SIZE, WATCHED_CASES = 64, 16
"""Side and number of the cases of each domain that are scored while a run goes on."""


@dataclass(frozen=True)
class TeacherPlan:
    """A run of `train_embedded_teacher`.

    ``out`` is the safetensors file to write, a JSON card lies beside it. ``seed`` is that of clips and cases (separate
    streams), of the first weights and of the jitter. One of the ``sizes`` is drawn for each batch. ``max_seconds``
    shortens the schedule to that time; 0 does not. ``num_cases`` held-out cases are scored at each of `SCORED_SIZES`.
    ``classes`` is only LV, or all of `CHAMBER_NAMES` after the background. Clip i shows domain i modulo their number of
    ``domains``. ``initial`` is a file of weights to start from, "shipped", or empty; layers that it does not have start
    at random. ``folder`` keeps the run's state, to go on from after a stop; empty keeps none. With ``batch_norm``
    the network keeps statistics of its features, which can guide noise (`source.kind` guided).
    """

    out: str
    steps: int
    seed: int
    sizes: tuple[int, ...]
    max_seconds: float
    num_cases: int
    classes: tuple[str, ...] = CLASS_NAMES[1:]
    domains: tuple[str, ...] = ("default",)
    channels: tuple[int, ...] = EMBEDDED_CHANNELS
    initial: str = ""
    folder: str = ""
    learning_rate: float = 3e-3
    average: float = 0.0
    precision: str = "fp32"
    batch_norm: bool = False


def train_embedded_teacher(plan: TeacherPlan, *, report: Callable[[str], None]) -> dict[str, Any]:
    """Train, score on held-out cases, and write ``out`` and a JSON card beside it.

    Args:
        plan: see `TeacherPlan`.
        report: takes lines of progress.

    Returns:
        The card: recipe, versions and held-out scores.

    Raises:
        ConfigError: an option is out of range.
        InputError: ``out`` cannot be written, or weights or a saved state cannot be read.
        RunError: the loss is not finite.
    """
    _check(plan)
    prepare_folder(Path(plan.out).parent, "--out")
    recipe = replace(
        embedded_recipe(
            steps=plan.steps, seed=plan.seed, sizes=plan.sizes, max_seconds=plan.max_seconds, classes=plan.classes
        ),
        learning_rate=plan.learning_rate,
        average=plan.average,
        precision=plan.precision,
    )
    torch.manual_seed(plan.seed)
    network = EmbeddedTeacherNet(channels=plan.channels, num_classes=len(plan.classes), batch_norm=plan.batch_norm)
    if plan.initial:
        report(start_from(network, plan.initial, len(plan.classes)))
    data = (
        f"echodfkd.sources.phantom.source, domains {', '.join(plan.domains)} in turn, clips 0, 1, ... of this seed;"
        f" started from {plan.initial or 'random weights'}; scored on cases 0, 1, ..."
    )

    def card(scored: EmbeddedTeacherNet, steps_done: int, held_out: dict[str, Any]) -> dict[str, Any]:
        return teacher_card(scored, recipe, steps_done=steps_done, data=data, held_out=held_out)

    keeper = None
    if plan.folder:
        prepare_folder(Path(plan.folder), "--resume")
        watch = TransferWatch(plan, recipe, card, report)
        keeper = Keeper(Path(plan.folder), {**asdict(recipe), "domains": plan.domains}, judge=watch)
    steps_done = train_segmentation(network, _clip_maker(recipe, plan.domains), recipe, report=report, keeper=keeper)
    found = card(network, steps_done, _score(network, recipe, plan.num_cases))
    write_teacher(Path(plan.out), network, found, "--out")
    return found


class TransferWatch:
    """Scores a run's weights on every scanner domain after each save, and keeps the best as FOLDER/best.safetensors.

    A loss that still falls on the training domain says nothing of other looks: the score on domains that the run does
    not train on is the rule to stop by. If it trains on all of them, the score is their worst.
    """

    def __init__(
        self,
        plan: TeacherPlan,
        recipe: SupervisedRecipe,
        card: Callable[[EmbeddedTeacherNet, int, dict[str, Any]], dict[str, Any]],
        report: Callable[[str], None],
    ) -> None:
        self._plan, self._recipe, self._card, self._report = plan, recipe, card, report
        self._best_path = Path(plan.folder) / "best.safetensors"
        try:
            self._best = float(json.loads(self._best_path.with_suffix(".json").read_text())["held_out"]["transfer"])
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or cut off by a stop: the next is the best
            self._best = -1.0

    def __call__(self, state: TrainingState) -> None:
        """Score the average of the weights, or the weights if there is none."""
        source = state.network if state.average is None else state.average.module
        assert isinstance(source, EmbeddedTeacherNet)
        network = copy.deepcopy(source).eval()
        scores = {
            domain: _score_domain(network, self._recipe, WATCHED_SIZE, domain, WATCHED_CASES, frames=12)["dice_all"]
            for domain in DOMAIN_NAMES
        }
        others = [value for name, value in scores.items() if name not in self._plan.domains] or list(scores.values())
        scores["transfer"] = min(others)
        self._report(f"step {state.step}  " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        card = self._card(network, state.step, scores)
        write_teacher(Path(self._plan.folder) / "last.safetensors", network, card, "--resume")
        if scores["transfer"] > self._best:
            self._best = scores["transfer"]
            write_teacher(self._best_path, network, card, "--resume")


def start_from(network: EmbeddedTeacherNet, initial: str, num_classes: int) -> str:
    """Copy every tensor of the same name and shape, from a file or the shipped weights; returns a sentence of it.

    A network with more levels takes the fine levels of one with fewer: both count the levels on the way up from the
    coarsest, so that these are matched from the finest.
    """
    source = load_embedded_teacher(None if initial == "shipped" else initial, num_classes=num_classes)
    more = len(network.up) - len(source.up)
    state, copied = network.state_dict(), 0
    for key, value in source.state_dict().items():
        if key.startswith("up."):
            _, level, rest = key.split(".", 2)
            key = f"up.{int(level) + more}.{rest}"
        if key in state and state[key].shape == value.shape:
            state[key], copied = value, copied + 1
    network.load_state_dict(state)
    return f"{copied} of {len(state)} tensors from {initial}"


def prepare_folder(folder: Path, option: str) -> None:
    """Make the folder of an output before the work starts. Raises `InputError`, which names the option."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option}: {folder} cannot be written: {error}") from error


def write_teacher(path: Path, network: EmbeddedTeacherNet, card: dict[str, Any], option: str) -> None:
    """Write the weights, and the card as .json beside them. Raises `InputError`, which names the option."""
    try:
        path.write_bytes(save({key: value.contiguous() for key, value in network.state_dict().items()}))
        path.with_suffix(".json").write_bytes(dump_json(card, indent=2))
    except OSError as error:
        raise InputError(f"{option}: {path} cannot be written: {error}") from error


def embedded_recipe(
    *, steps: int, seed: int, sizes: tuple[int, ...], max_seconds: float, classes: tuple[str, ...] = CLASS_NAMES[1:]
) -> SupervisedRecipe:
    """The recipe of the shipped teachers; the arguments are those of `train_embedded_teacher`."""
    return SupervisedRecipe(
        steps=steps,
        seed=seed,
        sizes=sizes,
        batch_pixels=32 * 56 * 56,
        frames_per_clip=2,
        learning_rate=3e-3,
        weight_decay=1e-4,
        warmup_steps=min(100, steps),
        max_seconds=max_seconds,
        mean=PIXEL_MEAN[0],
        std=PIXEL_STD[0],
        jitter=0.15,
        classes=classes,
    )


def _score(network: EmbeddedTeacherNet, recipe: SupervisedRecipe, num_cases: int) -> dict[str, dict[str, float]]:
    return {str(size): _score_domain(network, recipe, size, "default", num_cases) for size in SCORED_SIZES}


def _score_domain(
    network: EmbeddedTeacherNet, recipe: SupervisedRecipe, size: int, domain: str, num_cases: int, frames: int = 48
) -> dict[str, float]:
    """Held-out scores; with fewer than 48 frames their rate is lower, so that they still cover a beat."""
    fps = 32.0 * frames / 48
    source = default_phantom(seed=recipe.seed, num_frames=1, fps=fps, size=size, case_frames=frames, domain=domain)
    cases = (source.case(index) for index in range(num_cases))
    return score_cases(network, cases, mean=recipe.mean, std=recipe.std, threshold=0.5, classes=recipe.classes)


def teacher_card(
    network: EmbeddedTeacherNet, recipe: SupervisedRecipe, *, steps_done: int, data: str, held_out: dict[str, Any]
) -> dict[str, Any]:
    """The content of a teacher's JSON file: recipe, data and scores."""
    return {
        "name": "embedded_teacher" if len(recipe.classes) == 1 else "embedded_chambers_teacher",
        "input": "grey frames (N, 1, H, W), H and W divisible by 8, normalised by mean and std",
        "channels": list(network.channels),
        "parameters": sum(value.numel() for value in network.parameters()),
        "recipe": asdict(recipe),
        "steps_done": steps_done,
        "data": data,
        "held_out": held_out,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def _clip_maker(recipe: SupervisedRecipe, domains: tuple[str, ...]) -> Callable[[int, int], VideoClip]:
    """Clips of two frames half a second apart, so that a batch holds many hearts, each in two states."""
    frames = recipe.frames_per_clip
    sources = {
        (size, domain): default_phantom(
            seed=recipe.seed, num_frames=frames, fps=2.0, size=size, case_frames=frames, domain=domain
        )
        for size in sorted(set(recipe.sizes))
        for domain in set(domains)
    }
    return lambda index, size: sources[size, domains[index % len(domains)]].clip(index)


def _check(plan: TeacherPlan) -> None:
    classes = plan.classes
    if classes not in (CLASS_NAMES[1:], CHAMBER_NAMES[1:]):
        allowed = f"{' '.join(CLASS_NAMES[1:])}, or {' '.join(CHAMBER_NAMES[1:])}"
        raise ConfigError(f"--classes: got {' '.join(classes)}, allowed are {allowed}, in this order")
    for option, value, least in (("--steps", plan.steps, 1), ("--seed", plan.seed, 0), ("--cases", plan.num_cases, 1)):
        if value < least:
            raise ConfigError(f"{option}: got {value}, must be at least {least}")
    for size in plan.sizes:
        if size < 32 or size % 8:
            raise ConfigError(f"--size: got {size}, must be a multiple of 8 and at least 32")
    for domain in plan.domains:
        if domain not in DOMAIN_NAMES:
            raise ConfigError(f"--domains: got {domain!r}, allowed are {', '.join(DOMAIN_NAMES)}")
    if not 2 <= len(plan.channels) <= LARGEST_DEPTH or any(
        width % 8 or not 8 <= width <= LARGEST_WIDTH for width in plan.channels
    ):
        raise ConfigError(
            f"--channels: got {' '.join(map(str, plan.channels))}, must be 2 to {LARGEST_DEPTH} multiples of 8 up to"
            f" {LARGEST_WIDTH}"
        )
    if not 0.0 <= plan.average < 1.0:
        raise ConfigError(f"--average: got {plan.average}, must be at least 0 and below 1")
    if not plan.learning_rate > 0.0:
        raise ConfigError(f"--rate: got {plan.learning_rate}, must be above 0")
    if plan.precision not in ("fp32", "bf16"):
        raise ConfigError(f"--precision: got {plan.precision!r}, allowed are fp32, bf16")
