"""Clips that a painter makes around the label maps of drawn hearts, trained or in training
(`echodfkd.training.datafree`).

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from echodfkd.config.sections.generator import PAINTER
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import CHAMBER_NAMES
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.archives.state_dicts import check_same_keys
from echodfkd.models.generators.map_painter import MapPainter, initial_painter, painter_noise
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.storage.checkpoints import load_tensors
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import checkpoint_folder, read_checkpoint, read_verified

_LV = CHAMBER_NAMES.index("LV")


class Painted:
    """See `echodfkd.models.generators.protocol.Generator`. A clip's size must be even.

    Args:
        painter: its network.
        device: cpu or cuda.
    """

    notes: tuple[str, ...] = ()
    wants_label_map = True

    def __init__(self, painter: MapPainter, device: str = "cpu") -> None:
        self._painter, self._device = painter.to(device).eval().requires_grad_(False), device

    @torch.inference_mode()
    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        """Each clip by itself: the network is small, and a batch would change no more than its last bits."""
        return [self._generate(request) for request in requests]

    def _generate(self, request: ClipRequest) -> np.ndarray | ClipError:
        shape = (request.frames, request.size, request.size)
        if request.size % 2:
            return ClipError(f"window.size: got {request.size}, a painter needs an even one")
        assert request.label_map is not None, "its source gives a label map, because it is wanted"
        mask = torch.from_numpy(np.array(np.broadcast_to(request.label_map == _LV, shape)))
        noise = painter_noise([request.seed], request.size)
        video = self._painter(mask[None].to(self._device), noise.to(self._device))[0]
        if not torch.isfinite(video).all():
            return ClipError(
                f"{request.clip_id}: the painter made numbers that are not finite (its weights are damaged)"
            )
        return video.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


class InTraining:
    """See `echodfkd.models.generators.protocol.Generator`: each clip is made by the painter that its request names.

    Args:
        root: the run folder, in whose checkpoints the painters lie.
        device: cpu or cuda.
    """

    notes: tuple[str, ...] = ()
    wants_label_map = True

    def __init__(self, root: str, device: str = "cpu") -> None:
        self._storage, self._device = RunStorage(root), device
        self._painted = functools.lru_cache(maxsize=4)(self._read)

    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        """Each clip by itself. Raises `InputError` if a painter is not published, or its file is damaged."""
        return [self._painted(request.generator_step or 0).generate([request])[0] for request in requests]

    def _read(self, step: int) -> Painted:
        painter, where = initial_painter(), f"{self._storage.root}/{checkpoint_folder(step)}"
        if step:
            commit = read_checkpoint(self._storage, step)
            if commit is None:
                raise InputError(f"{where} is not published, and clips of its painter are asked for")
            name = f"{where}/{PAINTER_FILE}"
            _fill(painter, load_tensors(read_verified(self._storage, commit, PAINTER_FILE), name), name)
        return Painted(painter, self._device)


PAINTER_FILE = f"{PAINTER}/weights.safetensors"
"""In a checkpoint of a run that trains a painter."""


def write_painter(path: Path, painter: MapPainter) -> None:
    """Write its weights as safetensors."""
    path.write_bytes(pack_painter(painter.state_dict()))


def pack_painter(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Its weights as the bytes of a safetensors file."""
    return save({key: value.contiguous() for key, value in weights.items()})


def load_painter(path: str) -> MapPainter:
    """The painter of a file. Raises `InputError`, which names the option and the file."""
    place = Path(path)
    files = PublishedFiles(place.parent, "the folder of the run that trained it")
    painter = MapPainter()
    _fill(painter, files.read_tensors(place.name), f"{files.option}: {place}")
    return painter


def _fill(painter: MapPainter, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    own, found = ({key: value.shape for key, value in of.items()} for of in (painter.state_dict(), tensors))
    check_same_keys(own, found, where, network="painter")
    painter.load_state_dict(tensors)
