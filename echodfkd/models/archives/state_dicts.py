"""Loads weights into a network, with clear errors for keys and shapes that differ."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from echodfkd.core.errors import InputError


def load_weights(
    module: nn.Module, weights: Mapping[str, torch.Tensor], *, what: str, network: str = "student"
) -> None:
    """Copy named weights and buffers into a network of the same architecture.

    Raises:
        InputError: names the first key that is missing, unknown or of another shape.
    """
    own = module.state_dict()
    shapes, stored = ({key: tensor.shape for key, tensor in of.items()} for of in (own, weights))
    check_same_keys(shapes, stored, what, network=network)
    module.load_state_dict(dict(weights))


def check_same_keys(
    own: Mapping[str, torch.Size], stored: Mapping[str, torch.Size], what: str, *, network: str = "student"
) -> None:
    """Raise `InputError` naming the first key, in alphabetical order, that differs between network and file."""
    for key in sorted(own.keys() | stored.keys()):
        if key not in stored:
            raise InputError(f"{what} does not fit the {network}: it has no {key}, shape {tuple(own[key])}")
        if key not in own:
            raise InputError(f"{what} does not fit the {network}: the {network} has no {key}, found in the file")
        if own[key] != stored[key]:
            raise InputError(
                f"{what} does not fit the {network}: {key} has shape {tuple(stored[key])}, expected {tuple(own[key])}"
            )
