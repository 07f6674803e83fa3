"""The interface of all generators, and the record of one clip that is asked of them.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from echodfkd.core.errors import ClipError


@dataclass(frozen=True)
class ClipRequest:
    """One clip to be made.

    Attributes:
        clip_id: its identity, as its source gives it.
        seed: 64 bits, from the run's seed, the source's name and the clip's index. All noise of this clip is drawn
            from it, on the CPU, by a `torch.Generator` of its own: neighbours in a batch and actors do not matter.
        frames: T of the window.
        fps: frames a second.
        size: H = W in pixels.
        ef: ejection fraction asked for, 0..1; None if the generator may choose.
        conditions: every drawn condition by its name (`echodfkd.core.records.Conditions`).
        label_map: (H, W) or (T, H, W) uint8, structure codes of the phantom under the same conditions
            (`echodfkd.sources.phantom.chambers.PHANTOM_CLASSES`), from an end-diastole on; None unless the generator
            wants one.
        generator_step: updates of the generator that makes the clip, if it is in training meanwhile; else None.

    Example: ``ClipRequest("latent_video-s0-i3-e0-w0", 17, frames=16, fps=32.0, size=56, ef=0.55)``.
    """

    clip_id: str
    seed: int
    frames: int
    fps: float
    size: int
    ef: float | None = None
    conditions: Mapping[str, float | str] = field(default_factory=dict)
    label_map: np.ndarray | None = None
    generator_step: int | None = None


class Generator(Protocol):
    """Makes clips from conditions and a seed."""

    notes: tuple[str, ...]
    """Facts that a user must know before anything trains (`echodfkd.sources.notes`)."""
    wants_label_map: bool
    """Whether requests need a ``label_map``."""

    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        """The clips: uint8 (T, H, W) each, at the rate and size asked for; an error in place of one that failed.

        A clip is a function of its own request: the same in a batch of any size.
        """
        ...
