"""The laws of a steered run, as a checkpoint's steering.json keeps them, and the counts from which the next follows.

Every checkpoint holds all laws so far: a restart, a process of the stream and an offline check read one file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from echodfkd.core.errors import InputError
from echodfkd.core.records import PublishedCheckpoint
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import read_verified
from echodfkd.storage.untrusted import parse_json_object

STEERING = "steering.json"

UNIT = float(1 << 20)
"""Signals are counted in whole parts of this size, so that sums do not depend on the order of the workers."""


@dataclass(frozen=True)
class Law:
    """The law of some updates: which patients their clips show.

    Attributes:
        step: first update (from 0) that it holds for.
        towards: probability of each stratum among steered clips; empty steers none.
        weights: importance weight of each stratum's clips: its share of the patients by its share of the clips.
        loss: mean signal of each stratum that the law follows; 0 if unknown.
        clips: clips that this mean is over.
        again: clips that come back, as [index, draw, stratum].

    Example: ``Law(50, (0.2, 0.8), (1.6, 0.7), (0.1, 0.4), (230, 170), ())``.
    """

    step: int
    towards: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()
    clips: tuple[int, ...] = ()
    again: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Window:
    """Counts since the newest law, over all workers; the last stratum holds the patients of no stratum.

    ``sums`` of signals are in parts of 1 / `UNIT`. ``hard`` holds the clips with the largest, as
    [signal, index].
    """

    sums: tuple[int, ...]
    clips: tuple[int, ...]
    hard: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class SteeringState:
    """All laws by step, and the counts for the next."""

    laws: tuple[Law, ...]
    window: Window

    def files(self) -> dict[str, bytes]:
        """The file of a checkpoint by its name; numbers keep every bit."""
        return {STEERING: json.dumps(asdict(self)).encode()}

    @staticmethod
    def from_json(data: bytes, where: str) -> SteeringState:
        """Read the content of `files`. Raises `InputError`, beginning with ``where``."""
        values = parse_json_object(data, where)
        try:
            laws = tuple(_law(law) for law in values["laws"])
            window = values["window"]
            state = SteeringState(
                laws,
                Window(_whole(window["sums"]), _whole(window["clips"]), tuple(map(_pair, window["hard"]))),
            )
            steps, sizes = [law.step for law in laws], {len(window["sums"]) - 1, len(window["clips"]) - 1}
            sizes |= {len(part) for law in laws for part in (law.towards or law.loss, law.weights, law.loss, law.clips)}
            if len(sizes) != 1:
                raise ValueError(f"its laws and counts are of {min(sizes)} to {max(sizes)} strata")
            if not laws or steps[0] != 0 or sorted(set(steps)) != steps:
                raise ValueError(f"its laws begin at the steps {steps[:8]}")
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"{where} holds no laws of a steered run: {error}") from error
        return state


def read_steering(storage: RunStorage, checkpoint: PublishedCheckpoint) -> SteeringState | None:
    """The laws that a checkpoint holds; None if its run is not steered. Raises `InputError`."""
    if STEERING not in checkpoint.files:
        return None
    where = f"{storage.root}/{checkpoint.folder}/{STEERING}"
    return SteeringState.from_json(read_verified(storage, checkpoint, STEERING), where)


def read_laws(storage: RunStorage, checkpoint: PublishedCheckpoint, strata: int) -> SteeringState:
    """The laws of a run that is steered over so many strata. Raises `InputError` if the checkpoint holds none."""
    state = read_steering(storage, checkpoint)
    if state is None or len(state.laws[0].weights) != strata:
        raise InputError(
            f"{storage.root}/{checkpoint.folder} holds no laws of the {strata} strata that source.steering.strata cuts:"
            " give this run another name"
        )
    return state


def _law(values: Any) -> Law:
    numbers = {key: tuple(_number(number) for number in values[key]) for key in ("towards", "weights", "loss")}
    again = tuple(_whole(place) for place in values["again"])
    if any(len(place) != 3 for place in again):
        raise ValueError("a clip that comes back is not [index, draw, stratum]")
    (step,) = _whole([values["step"]])
    return Law(step, **numbers, clips=_whole(values["clips"]), again=again)  # type: ignore[arg-type]


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e300:
        raise ValueError(f"got {str(value)[:80]!r} for a number of at least 0")
    return float(value)


def _whole(values: Any) -> tuple[int, ...]:
    wrong = [value for value in values if type(value) is not int or not 0 <= value < 1 << 62]
    if wrong:
        raise ValueError(f"got {str(wrong[0])[:80]!r} for a whole number of at least 0")
    return tuple(values)


def _pair(values: Any) -> tuple[int, int]:
    loss, index = _whole(values)
    return loss, index
