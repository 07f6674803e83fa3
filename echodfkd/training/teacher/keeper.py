"""Save a teacher's training now and then, and go on from there: weights, moments, average, random numbers, counters.

A save is two files: FOLDER/state-STEP.safetensors, then FOLDER/state.json, which names it and is replaced at once.
A run that is ended between the two goes on from the save before.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torch.optim.swa_utils import AveragedModel

from echodfkd.core.errors import InputError
from echodfkd.storage.files import RunStorage
from echodfkd.storage.untrusted import MAX_JSON_BYTES

STATE = "state.json"
_SAVE = re.compile(r"state-\d+\.safetensors")


@dataclass
class TrainingState:
    """Everything that a training loop needs to go on: its parts, and its counters.

    ``index`` is the next clip, ``seconds`` the time spent, ``mean_loss`` a moving average of the loss.
    """

    network: nn.Module
    optimizer: torch.optim.AdamW
    average: AveragedModel | None
    rng: np.random.Generator
    step: int = 0
    index: int = 0
    seconds: float = 0.0
    mean_loss: float = math.nan

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name: a fresh optimiser has no moments yet."""
        found = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
        return {key: value.contiguous() for key, value in found.items()}


class Keeper:
    """Saves a run's state into a folder.

    Args:
        folder: an existing folder; if it holds a save, the run goes on from it.
        recipe: of the run, as it stands in JSON; a save of another recipe is refused.
        every_seconds: least time between two saves.
        judge: takes the state after each save, e.g. to score its average.
    """

    def __init__(
        self,
        folder: Path,
        recipe: dict[str, Any],
        *,
        every_seconds: float = 300.0,
        judge: Callable[[TrainingState], None] | None = None,
    ) -> None:
        self._storage, self._recipe = RunStorage(str(folder)), json.loads(json.dumps(recipe))
        self._every, self._judge = every_seconds, judge
        self._last = time.monotonic()

    def is_due(self, state: TrainingState) -> bool:
        """Whether it is time for a save."""
        return time.monotonic() - self._last >= self._every

    def save(self, state: TrainingState) -> None:
        """Save, and remove the save before."""
        name = f"state-{state.step}.safetensors"
        self._storage.write(name, save(state.tensors()))
        found = {
            "file": name,
            "recipe": self._recipe,
            "rng": state.rng.bit_generator.state,
            **{key: getattr(state, key) for key in ("step", "index", "seconds", "mean_loss")},
        }
        self._storage.write(STATE, json.dumps(found, indent=2).encode())
        for old in self._storage.list(""):
            if _SAVE.fullmatch(old) and old != name:
                self._storage.delete(old)
        if self._judge is not None:
            self._judge(state)
        self._last = time.monotonic()

    def load(self, state: TrainingState) -> None:
        """Put the folder's save into ``state``; without one ``state`` stays as it is.

        Raises:
            InputError: the save cannot be read, or belongs to another recipe.
        """
        path = f"{self._storage.root}/{STATE}"
        if not self._storage.exists(STATE):
            return
        with _readable(path):
            found = json.loads(self._storage.read(STATE, MAX_JSON_BYTES))  # its random state has numbers of 128 bits
            changed = sorted(key for key in self._recipe if self._recipe[key] != found["recipe"].get(key))
        if found["recipe"] != self._recipe:
            raise InputError(
                f"--resume: {path} was made with another recipe ({', '.join(changed) or 'options differ'}); use another"
                " folder"
            )
        with _readable(path):
            _fill(state, load(self._storage.read(found["file"])))
            state.rng.bit_generator.state = found["rng"]
            for key in ("step", "index", "seconds", "mean_loss"):
                setattr(state, key, type(getattr(state, key))(found[key]))


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Explain whatever a damaged save leads to."""
    try:
        yield
    except (
        *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
        *(SafetensorError, InputError),
    ) as error:
        raise InputError(f"--resume: {path} cannot be read: {error}") from error


def _fill(state: TrainingState, tensors: dict[str, torch.Tensor]) -> None:
    def part(name: str) -> dict[str, torch.Tensor]:
        return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}

    state.network.load_state_dict(part("network"))
    if state.average is not None:
        state.average.load_state_dict(part("average"))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in part("optimizer").items():
        number, _, name = key.partition(".")
        moments.setdefault(int(number), {})[name] = value
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
