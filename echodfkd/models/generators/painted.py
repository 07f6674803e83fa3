"""Clips that a trained painter makes around the label maps of drawn hearts (`echodfkd.training.datafree`).

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from echodfkd.core.errors import ClipError
from echodfkd.core.records import CHAMBER_NAMES
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.archives.state_dicts import check_same_keys
from echodfkd.models.generators.map_painter import MapPainter, painter_noise
from echodfkd.models.generators.protocol import ClipRequest

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
        return video.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def write_painter(path: Path, painter: MapPainter) -> None:
    """Write its weights as safetensors."""
    path.write_bytes(save({key: value.contiguous() for key, value in painter.state_dict().items()}))


def load_painter(path: str) -> MapPainter:
    """The painter of a file. Raises `InputError`, which names the option and the file."""
    place = Path(path)
    files = PublishedFiles(place.parent, "the folder of the run that trained it")
    painter, tensors = MapPainter(), files.read_tensors(place.name)
    own, found = ({key: value.shape for key, value in of.items()} for of in (painter.state_dict(), tensors))
    check_same_keys(own, found, f"{files.option}: {place}", network="painter")
    painter.load_state_dict(tensors)
    return painter
