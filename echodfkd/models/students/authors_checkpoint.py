"""Checkpoints of the authors' students (``{k}{n}.ckpt``, saved by PyTorch Lightning), read and written.

The file holds a dictionary; its ``state_dict`` has the weights under the names of `models.convlstm` with ``model.`` in
front. It does not hold k, n or the number of filters, which are read off the names and shapes. The authors feed raw
grey levels 0..255, with no normalisation, so that such a student has ``input: raw``.
"""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from echodfkd.core.errors import InputError
from echodfkd.models.archives.torch_archive import read_state_dict
from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm_cell import KERNEL_SIZE

PREFIX = "model."
"""In front of every key: the network is the attribute ``model`` of the authors' training module."""
LIGHTNING_VERSION = "2.0.0"
"""Layout of the file that is written; Lightning converts older files and warns of newer ones."""
IMAGE_SIZE = 112
"""Side in pixels that the authors' code states as input shape. The network itself takes other sizes as well."""

_LIMITS = {"blocks": 6, "layers": 8, "filters": 1024}


@dataclass(frozen=True)
class AuthorsStudent:
    """k, n, filters of the first block, and fp32 weights and buffers under the names of our students."""

    blocks: int
    layers: int
    filters: int
    weights: dict[str, torch.Tensor]


def read_authors_checkpoint(data: bytes, *, name: str) -> AuthorsStudent:
    """Read one student from the bytes of a ``.ckpt`` file; no code in the file is run (`torch_archive`).

    Args:
        data: the whole file.
        name: its name, for the error's sentence.

    Raises:
        InputError: not such a file, damaged, or of another architecture; names the first key that differs.
    """
    weights = {}
    for key, tensor in read_state_dict(data, name=name).items():
        if not key.startswith(PREFIX):
            raise InputError(f"{name} is no student of the authors: its key {key} does not begin with {PREFIX!r}")
        weights[key.removeprefix(PREFIX)] = tensor
    blocks, layers, filters = check_architecture(weights, what=name)
    floats = {key: t.float() if t.is_floating_point() else t for key, t in weights.items()}
    for key, tensor in floats.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name}: {key} holds values that are not finite; its training has diverged")
    return AuthorsStudent(blocks, layers, filters, floats)


def write_authors_checkpoint(weights: Mapping[str, torch.Tensor], *, step: int) -> bytes:
    """Weights of a student of `authors_network`'s architecture as a ``.ckpt`` file.

    Lightning's ``load_from_checkpoint`` reads it. It has no optimiser and no loops: the authors' trainer cannot resume
    from it.
    """
    state = OrderedDict((PREFIX + key, tensor.detach().cpu().contiguous()) for key, tensor in weights.items())
    sink = io.BytesIO()
    torch.save(
        {
            "epoch": 0,
            "global_step": step,
            "pytorch-lightning_version": LIGHTNING_VERSION,
            "state_dict": state,
            "callbacks": {},
            "optimizer_states": [],
            "lr_schedulers": [],
        },
        sink,
    )
    return sink.getvalue()


def hyperparameters(*, filters: int) -> bytes:
    """The JSON file beside a checkpoint from which the authors' code builds the network.

    Training options (sequence_length, batch_size, ...) are left out: they belong to another training loop.
    """
    values = {
        "input_shape": [None, IMAGE_SIZE, IMAGE_SIZE, 1],
        "num_filters": filters,
        "kernel_size": [KERNEL_SIZE, KERNEL_SIZE],
    }
    return json.dumps(values).encode()


def authors_network(*, blocks: int, layers: int, filters: int) -> nn.Module:
    """The authors' network as one of our students: batch norm, raw grey levels."""
    return build_student(blocks=blocks, layers=layers, filters=filters, norm="batch", input="raw")


def check_architecture(weights: Mapping[str, torch.Tensor], *, what: str) -> tuple[int, int, int]:
    """Blocks, layers and filters of weights that fit `authors_network`, read off their names and shapes.

    Raises:
        InputError: they fit no such network; names the first key that differs, in alphabetical order.
    """
    first = "conv_lstm_blocks.0.conv_lstm_layers.0.cell.conv.weight"
    if first not in weights or weights[first].ndim != 4:
        raise InputError(f"{what} is no student of the authors: it has no convolution {first}")
    found = {
        "blocks": sum(f"conv_lstm_blocks.{b}.conv_lstm_layers.0.cell.conv.weight" in weights for b in range(99)),
        "layers": sum(f"conv_lstm_blocks.0.conv_lstm_layers.{2 * j}.cell.conv.weight" in weights for j in range(99)),
        "filters": weights[first].shape[0] // 4,
    }
    for option, value in found.items():
        if not 1 <= value <= _LIMITS[option]:
            raise InputError(f"{what} has {option} {value}, expected 1 .. {_LIMITS[option]}")
    with torch.device("meta"):
        expected = {key: tensor.shape for key, tensor in authors_network(**found).state_dict().items()}
    for key in sorted(expected.keys() | weights.keys()):
        got = tuple(weights[key].shape) if key in weights else "none"
        want = tuple(expected[key]) if key in expected else "none"
        if got != want:
            raise InputError(
                f"{what} is no student of the authors with {found['blocks']} blocks of {found['layers']} layers and"
                f" {found['filters']} filters: {key} has shape {got}, expected {want}"
            )
    return found["blocks"], found["layers"], found["filters"]
