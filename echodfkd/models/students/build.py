"""Builds a student network from its options."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

STUDENT_INPUT_MEAN = 32.5
STUDENT_INPUT_STD = 50.0
"""Grey statistics of EchoNet-Dynamic, rounded: its published RGB means are 32.1, 32.6, 33.4 and its deviations
50.1, 50.5, 51.3. The authors feed raw grey levels; centred inputs train faster at the same architecture."""


def build_student(
    *,
    blocks: int = 3,
    layers: int = 1,
    filters: int = 12,
    norm: str = "batch",
    classes: Sequence[str] = ("LV",),
    tasks: Sequence[str] = (),
    recurrence: str = "convlstm",
    skips: bool = False,
    activation: str = "none",
    bidirectional: bool = False,
    input: str = "normalised",
    side: int = 0,
) -> nn.Module:
    """A student: video (B, T, H, W), grey 0..255 -> `StudentOutput`. Weights are drawn from torch's global generator.

    The defaults are the authors' network of 3 blocks and 1 layer.

    Args:
        blocks: k, encoder blocks.
        layers: n, recurrent layers per block.
        filters: channels of the first block, doubled in each further one; 0 takes the largest widths with no more
            parameters than the authors' network of the same blocks and layers has (`widths.matched_widths`).
        norm: batch or group.
        classes: names of the classes, in the order of the logits.
        tasks: phase, ef.
        recurrence: one of `recurrences.RECURRENCES`.
        skips: the decoder sees the encoder's features.
        activation: one of `convlstm.ACTIVATIONS`.
        bidirectional: half of each recurrent layer runs against time.
        input: normalised, or raw grey levels.
        side: side in pixels that frames are resized to, and masks back; 0 resizes nothing.
    """
    from echodfkd.models.students.convlstm import ConvLSTMStudent
    from echodfkd.models.students.heads import add_heads
    from echodfkd.models.students.widths import doubled_widths

    options: dict[str, Any] = {
        "layers": layers,
        "norm": norm,
        "recurrence": recurrence,
        "skips": skips,
        "activation": activation,
        "bidirectional": bidirectional,
    }
    widths = doubled_widths(blocks, filters) if filters else _matched_widths(blocks, **options)
    mean, std = (0.0, 1.0) if input == "raw" else (STUDENT_INPUT_MEAN, STUDENT_INPUT_STD)
    network = ConvLSTMStudent(widths=widths, input_mean=mean, input_std=std, side=side, **options)
    return add_heads(network, classes=classes, tasks=tasks)


@functools.lru_cache
def _matched_widths(blocks: int, **options: Any) -> tuple[int, ...]:
    """Widths with which a student of these options has the weights of the authors' network. Draws no random number."""
    from echodfkd.models.students.convlstm import ConvLSTMStudent, count_parameters
    from echodfkd.models.students.widths import AUTHORS_FILTERS, doubled_widths, matched_widths

    authors = {"norm": "batch", "recurrence": "convlstm", "skips": False, "activation": "none", "bidirectional": False}

    def count(widths: Sequence[int], options: Mapping[str, Any] = options) -> int:
        with torch.device("meta"):
            return count_parameters(ConvLSTMStudent(widths=widths, input_mean=0.0, input_std=1.0, **options))

    most = count(doubled_widths(blocks, AUTHORS_FILTERS), {**authors, "layers": options["layers"]})
    halved = options["bidirectional"] and options["recurrence"] != "shift"
    return matched_widths(count, blocks=blocks, most=most, even=halved)
