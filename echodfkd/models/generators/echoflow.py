"""EchoFlow: a flow that makes the frame to a given mask of the left ventricle, and one that moves it.

Reynaud et al., arXiv 2503.22357. Published files (huggingface.co/HReynaud/EchoFlow): ``vae/`` (avae-4f4, 4f8 or 16f8:
diffusers' ``AutoencoderKL``), ``lifm/`` (``SegDiTTransformer2DModel``), ``lvfm/`` (``DiffuserSTDiT``), and
``scaling.pt``, mean and standard deviation of the latents. Flows run from noise at time 1 to a latent at time 0.

Legend: B clips, C latent channels, T frames, H rows, W columns, h and w those of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import CHAMBER_NAMES
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.autoencoder import FrameAutoencoder
from echodfkd.models.generators.frames import (
    Clips,
    choose_fractions,
    first_map,
    generate_alike,
    noise_sources,
    own_frames,
)
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import (
    NoiseSchedule,
    Sampling,
    build_scheduler,
    denoise,
    draw_noise,
    place_network,
)
from echodfkd.models.generators.stdit import SpaceTimeTransformer
from echodfkd.models.generators.weight_files import import_diffusers, load_network

HOME = "https://huggingface.co/HReynaud/EchoFlow"
FPS = 32.0
STEPS = 50
VIEWS = ("A4C", "PSAX", "PLAX")
"""Classes of the frame network, in their order."""
MASK_SIDE = 112
"""Masks are made binary at this size, then brought to a latent's, as the authors do."""
VELOCITY = NoiseSchedule(prediction_type="flow")
LV = CHAMBER_NAMES.index("LV")


class FrameFlow:
    """Latents of the frame that fits a mask of the left ventricle.

    Args:
        network: diffusers' DiT of noisy latent and mask, with the view as its class.
        sampling: how it is run.
    """

    def __init__(self, network: Any, sampling: Sampling) -> None:
        self._network = place_network(network, sampling)
        self._sampling = sampling
        self.shape = (int(network.out_channels), int(network.config.sample_size), int(network.config.sample_size))
        build_scheduler(sampling.scheduler, VELOCITY, sampling.steps or STEPS)

    @torch.inference_mode()
    def draw(self, requests: Sequence[ClipRequest], generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Latents (B, C, h, w) of the first frames."""
        device, dtype = torch.device(self._sampling.device), self._sampling.dtype
        masks = torch.stack([ventricle_mask(request, self.shape[1]) for request in requests]).to(device)
        views = torch.tensor([VIEWS.index(_view(request)) for request in requests], device=device)

        def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            when = unit_time(time, len(x)).to(dtype)
            return self._network(torch.cat([x, masks], dim=1).to(dtype), when, class_labels=views).sample

        scheduler = build_scheduler(self._sampling.scheduler, VELOCITY, self._sampling.steps or STEPS)
        return denoise(scheduler, predict, draw_noise(self.shape, generators, device), generators)


class EchoFlow:
    """Clips of EchoFlow: a frame to the mask of each request, then its motion under the ejection fraction.

    Args:
        autoencoder: of single frames.
        frames: the frame network.
        videos: the video network.
        sampling: how they are run.
    """

    wants_label_map = True
    notes: tuple[str, ...] = (
        "EchoFlow's clips fit their label map in the first frame only; they are taken to run at"
        f" {FPS:g} frames a second, as EchoNet-Synthetic's",
    )

    def __init__(
        self, autoencoder: FrameAutoencoder, frames: FrameFlow, videos: SpaceTimeTransformer, sampling: Sampling
    ) -> None:
        self._autoencoder, self._frames, self._sampling = autoencoder, frames, sampling
        self._videos = place_network(videos, sampling)
        self.length = int(videos.config.input_size[0])

    def generate(self, requests: Sequence[ClipRequest]) -> Clips:
        """The clips of all requests (`echodfkd.models.generators.protocol.Generator`)."""
        return generate_alike(requests, self._fault, self._make, FPS)

    def _fault(self, request: ClipRequest) -> ClipError | None:
        if (needed := own_frames(request, FPS)) > self.length:
            return ClipError(
                f"{request.clip_id}: needs {needed} frames at {FPS:g} a second, EchoFlow makes {self.length}"
                " (window.frames, window.fps)"
            )
        return mask_fault(request)

    @torch.inference_mode()
    def _make(self, requests: list[ClipRequest]) -> list[torch.Tensor]:
        generators = noise_sources(requests)
        device, dtype = torch.device(self._sampling.device), self._sampling.dtype
        captions = choose_fractions(requests, generators).to(device, dtype)[:, None, None]
        frame = self._frames.draw(requests, generators)[:, :, None].expand(-1, -1, self.length, -1, -1)

        def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return self._videos(torch.cat([x, frame], dim=1).to(dtype), unit_time(time, len(x)), captions)

        C, h, w = self._frames.shape
        scheduler = build_scheduler(self._sampling.scheduler, VELOCITY, self._sampling.steps or STEPS)
        noise = draw_noise((C, self.length, h, w), generators, device)
        return self._autoencoder.decode_clips(denoise(scheduler, predict, noise, generators))


def unit_time(time: torch.Tensor, count: int) -> torch.Tensor:
    """A scheduler's time as EchoFlow's, 1 (noise) .. 0, once for each clip."""
    return (time.float() / VELOCITY.num_train_timesteps).expand(count)


def mask_fault(request: ClipRequest) -> ClipError | None:
    """Why a frame cannot be drawn to this request's map, or None."""
    if request.label_map is None or not (first_map(request.label_map) == LV).any():
        return ClipError(f"{request.clip_id}: its label map shows no left ventricle, which the frame is drawn to")
    if _view(request) not in VIEWS:
        return ClipError(
            f"{request.clip_id}: view {_view(request)}, EchoFlow knows {', '.join(VIEWS)} (source.conditions.view)"
        )
    return None


def ventricle_mask(request: ClipRequest, side: int) -> torch.Tensor:
    """The left ventricle of the first frame as float 0 or 1, (1, side, side): every cell that it touches."""
    assert request.label_map is not None
    mask = torch.from_numpy((first_map(request.label_map) == LV).astype(np.float32))[None, None]
    mask = F.interpolate(mask, size=(MASK_SIDE, MASK_SIDE), mode="nearest-exact")
    return (F.interpolate(mask, size=(side, side), mode="bilinear", align_corners=False)[0] > 0).float()


def _view(request: ClipRequest) -> str:
    return str(request.conditions.get("view", VIEWS[0]))


def read_statistics(files: PublishedFiles, *names: str, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of latents, per channel, out of the first of these files that is there.

    Raises:
        InputError: none is there, or it holds something else.
    """
    name = str(files.find(*names).relative_to(files.folder))
    found = files.read_tensors(name)
    mean, std = found.get("mean"), found.get("std")
    if mean is None or std is None or mean.shape != (channels,) or std.shape != (channels,) or float(std.min()) <= 0:
        raise InputError(
            f"{files.option}: {files.folder / name} must hold mean and std of {channels} latent channels, found"
            f" {', '.join(f'{key} {tuple(value.shape)}' for key, value in found.items()) or 'nothing'}"
        )
    return mean.float(), std.float()


def load_frame_flow(files: PublishedFiles, sampling: Sampling) -> tuple[FrameAutoencoder, FrameFlow]:
    """Autoencoder and frame network of a folder with vae/, lifm/ and scaling.pt.

    Raises:
        InputError: a file is missing, cannot be used, or the two do not share one latent space.
    """
    vae, lifm = files.variant("vae"), files.variant("lifm")
    network = load_network(vae, "AutoencoderKL")
    C = int(network.config.latent_channels)
    beside = str((vae.folder / "scaling.pt").relative_to(files.folder))
    statistics = read_statistics(files, beside, "vae/scaling.pt", "scaling.pt", channels=C)
    frames = load_network(lifm, "SegDiTTransformer2DModel", import_diffusers().DiTTransformer2DModel)
    if frames.config.in_channels != C + 1 or frames.out_channels != C:
        raise InputError(
            f"{files.option}: {lifm.folder} takes {frames.config.in_channels} and gives {frames.out_channels} channels,"
            f" expected {C + 1} (with the mask) and {C}, as {vae.folder}"
        )
    return FrameAutoencoder(network, sampling.device, statistics=statistics), FrameFlow(frames, sampling)


def load_echoflow(weights: str, sampling: Sampling) -> EchoFlow:
    """The generator out of the authors' folders.

    Args:
        weights: folder with vae/, lifm/, lvfm/ and scaling.pt; each of the three holds config.json itself, or in one
            folder.
        sampling: how it is run.

    Raises:
        InputError: a file is missing or cannot be used; which, and where it is published.
        ConfigError: the scheduler or number of steps does not fit.
    """
    files = PublishedFiles(Path(weights), HOME)
    autoencoder, frames = load_frame_flow(files, sampling)
    lvfm = files.variant("lvfm")
    videos = load_network(lvfm, "DiffuserSTDiT", SpaceTimeTransformer)
    C, h, w = frames.shape
    own = videos.config
    if (own.in_channels, own.out_channels, own.caption, own.input_size[1:]) != (2 * C, C, 1, (h, w)):
        raise InputError(
            f"{files.option}: {lvfm.folder} takes {own.in_channels} and gives {own.out_channels} channels of"
            f" {list(own.input_size)} under {own.caption} number; the frame network needs {2 * C} and {C} of"
            f" {[h, w]} under 1"
        )
    return EchoFlow(autoencoder, frames, videos, sampling)
