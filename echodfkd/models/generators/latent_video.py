"""The learned generator: latent video by flow matching, decoded frame by frame. A small one ships with this package.

A clip starts as noise of its own and follows the learned velocity to data in a few Euler steps. Clips that are longer
than the network's own are made in windows that overlap by half: where two meet, each step goes along their mean
velocity (MultiDiffusion, Bar-Tal et al. 2023), so that it stays one heart.

Legend: B clips, T frames, C latent channels, h and w of a latent, H and W of a frame, K conditions.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from echodfkd.config.pins import shipped_weights
from echodfkd.core.errors import ClipError, InputError, one_line
from echodfkd.models.archives.state_dicts import check_same_keys
from echodfkd.models.generators.latent_networks import CONDITIONS, SCALE, FrameVAE, LatentSpec, VelocityNet, clip_noise
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.storage.untrusted import parse_json_object

OPTION = "source.generator.weights"
STEPS, GUIDANCE = 8, 4.0
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class LatentModel:
    """Both networks, and the ``mean`` and ``std`` (C,) of the latents that the velocity field was trained on."""

    spec: LatentSpec
    vae: FrameVAE
    flow: VelocityNet
    mean: torch.Tensor
    std: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        found = {f"vae.{key}": value for key, value in self.vae.state_dict().items()}
        found |= {f"flow.{key}": value for key, value in self.flow.state_dict().items()}
        return found | {"latent_mean": self.mean, "latent_std": self.std}


class LatentVideo:
    """See `echodfkd.models.generators.protocol.Generator`. Conditions that a request lacks are left to chance.

    Args:
        model: the networks.
        device: cpu or cuda.
        precision: fp32 or bf16.
        steps: Euler steps; 0 takes 8.
        guidance: weight of the conditions against none (classifier-free, Ho and Salimans 2022) in the part of the
            velocity that changes within a clip: still pictures need none, and lose detail by it. 1 is without; 0
            takes 4.
    """

    wants_label_map = False

    def __init__(
        self, model: LatentModel, *, device: str = "cpu", precision: str = "fp32", steps: int = 0, guidance: float = 0.0
    ) -> None:
        self._model, self._device = model, torch.device(device)
        self._bf16 = precision == "bf16"
        self._steps, self._guidance = steps or STEPS, guidance or GUIDANCE
        for network in (model.vae, model.flow):
            network.to(self._device).eval().requires_grad_(False)
        self.notes: tuple[str, ...] = ()

    @torch.inference_mode()
    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        """Clips of one shape and rate are made together, others one after the other."""
        shapes = {(request.frames, request.fps, request.size) for request in requests}
        groups = [list(requests)] if len(shapes) == 1 else [[request] for request in requests]
        return [clip for group in groups for clip in self._generate(group)]

    def _generate(self, requests: list[ClipRequest]) -> list[np.ndarray | ClipError]:
        frames, fps, size = requests[0].frames, requests[0].fps, requests[0].size
        spec = self._model.spec
        if fps > spec.fps_high:
            text = f"window.fps: got {fps:g}, this generator makes at most {spec.fps_high:g} frames a second"
            return [ClipError(text) for _ in requests]
        every = math.ceil(spec.fps_low / fps)
        length = max(spec.frames, (frames - 1) * every + 1)
        latents = self._sample(requests, length, fps * every)[:, : (frames - 1) * every + 1 : every]
        video = self._decode(latents.flatten(0, 1), size).view(len(requests), frames, size, size)
        return [clip.cpu().numpy() for clip in video]

    def _sample(self, requests: list[ClipRequest], length: int, fps: float) -> torch.Tensor:
        """Latents (B, T, C, h, w) in the autoencoder's own scale."""
        model, spec = self._model, self._model.spec
        side = spec.size // SCALE
        shape = (length, spec.latent_channels, side, side)
        x = torch.stack([clip_noise(shape, spec.shared, _generator(request.seed)) for request in requests])
        wishes = torch.tensor([[_wish(request, name) for name in CONDITIONS] for request in requests])
        seconds = torch.arange(spec.frames, device=self._device).expand(len(requests), -1) / fps
        x, wishes = x.to(self._device), wishes.to(self._device)
        starts = window_starts(length, spec.frames)
        for step in range(self._steps):
            time = torch.full((len(requests),), 1.0 - step / self._steps, device=self._device)
            total, count = torch.zeros_like(x), torch.zeros(length, 1, 1, 1, device=self._device)
            for start in starts:
                part = slice(start, start + spec.frames)
                total[:, part] += self._velocity(x[:, part], time, seconds, wishes)
                count[part] += 1
            x = x - total / count / self._steps
        return x * model.std.to(x).view(-1, 1, 1) + model.mean.to(x).view(-1, 1, 1)

    def _velocity(
        self, x: torch.Tensor, time_B: torch.Tensor, seconds_BT: torch.Tensor, wishes_BK: torch.Tensor
    ) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            velocity = self._model.flow(x, time_B, seconds_BT, wishes_BK).float()
            if self._guidance == 1.0:
                return velocity
            without = self._model.flow(x, time_B, seconds_BT, torch.full_like(wishes_BK, math.nan)).float()
        gained = velocity - without
        return velocity + (self._guidance - 1.0) * (gained - gained.mean(1, keepdim=True))

    def _decode(self, latents_NChw: torch.Tensor, size: int) -> torch.Tensor:
        """Frames uint8 (N, H, W)."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            frames = torch.cat([self._model.vae.decode(part) for part in latents_NChw.split(64)]).float()
        if size != frames.shape[-1]:
            frames = F.interpolate(frames, (size, size), mode="bilinear", align_corners=False, antialias=True)
        return ((frames[:, 0] + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def window_starts(length: int, window: int) -> list[int]:
    """First frames of windows that cover ``length`` frames and overlap by half or more."""
    return [*range(0, length - window, max(1, window // 2)), length - window]


def write_latent_model(path: Path, model: LatentModel) -> None:
    """Write one file in half precision; the sizes of the networks stand in its header."""
    tensors = {key: value.half().contiguous() for key, value in model.tensors().items()}
    spec = json.dumps(dataclasses.asdict(model.spec))
    path.write_bytes(save(tensors, {"spec": spec}))


def load_latent_model(path: str = "") -> LatentModel:
    """The model of a file; the shipped one for an empty path.

    Raises:
        InputError: it cannot be read, or is none of this kind.
    """
    place = Path(path or shipped_weights("latent_video"))
    where = f"{OPTION}: {place}"
    try:
        if (size := place.stat().st_size) > _MOST_BYTES:
            raise InputError(f"{where} has {size} bytes, at most {_MOST_BYTES} are read")
        with safe_open(place, "pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise InputError(f"{where} cannot be read as a safetensors file: {one_line(error)}") from error
    spec = _read_spec(header.get("spec", ""), where)
    with torch.device("meta"):
        vae, flow = FrameVAE(spec), VelocityNet(spec)
        blank = LatentModel(spec, vae, flow, torch.empty(spec.latent_channels), torch.empty(spec.latent_channels))
    own = {key: value.shape for key, value in blank.tensors().items()}
    check_same_keys(own, {key: value.shape for key, value in tensors.items()}, where, network="network")
    tensors = {key: value.float() for key, value in tensors.items()}
    for prefix, network in (("vae.", vae), ("flow.", flow)):
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        network.load_state_dict(state, assign=True)
    return LatentModel(spec, vae.eval(), flow.eval(), tensors["latent_mean"], tensors["latent_std"])


def _read_spec(text: str, where: str) -> LatentSpec:
    if not text:
        raise InputError(f"{where} is no file of echodfkd train-generator: its header has no entry spec")
    found = parse_json_object(text.encode(), f"{where}: spec")
    known = {field.name: field.type for field in dataclasses.fields(LatentSpec)}
    if found.keys() != known.keys():
        raise InputError(f"{where}: spec has {', '.join(sorted(found))[:200]}; expected {', '.join(sorted(known))}")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1024:
            raise InputError(f"{where}: spec.{name} is {str(value)[:40]}, expected a number of 0 .. 1024")
        if known[name] == "int" and (not isinstance(value, int) or value < 1):
            raise InputError(f"{where}: spec.{name} is {value}, expected a whole number of at least 1")
    spec = LatentSpec(**found)
    spec.check(where)
    return spec


def _wish(request: ClipRequest, name: str) -> float:
    if name == "ef_percent" and request.ef is not None:
        return 100.0 * request.ef
    value = request.conditions.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed & (2**64 - 1))
