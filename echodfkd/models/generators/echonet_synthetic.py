"""EchoNet-Synthetic: a latent diffusion of one frame, then of a video around it under an ejection fraction.

Reynaud et al., "EchoNet-Synthetic: Privacy-preserving Video Generation for Safe Medical Data Sharing", MICCAI 2024.
Published files (huggingface.co/HReynaud/EchoNet-Synthetic): ``vae``, ``lidm_dynamic`` (one frame, unconditional),
``lvdm`` (64 frames at 32 a second). The noise schedule stands in the two networks' ``config.yaml``.

The authors' sampler repeats the ejection fractions clip by clip but stacks the windows of stitched videos window by
window: above one clip in a batch most windows are made under a neighbour's fraction. Here both run clip by clip.

Legend: B clips, C latent channels, T frames, h rows and w columns of a latent, R windows of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from echodfkd.core.errors import InputError
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.autoencoder import FrameAutoencoder
from echodfkd.models.generators.frames import Clips, choose_fractions, generate_alike, noise_sources, own_frames
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import (
    NoiseSchedule,
    Sampling,
    build_scheduler,
    denoise,
    draw_noise,
    place_network,
    read_schedule,
)
from echodfkd.models.generators.weight_files import load_network

HOME = "https://huggingface.co/HReynaud/EchoNet-Synthetic"
FPS = 32.0
STEPS = 64
PUBLISHED_NOISE = NoiseSchedule(prediction_type="v_prediction", clip_sample=True, clip_sample_range=4.0)
"""The authors' two configs, for folders without config.yaml."""
_DIVISOR = 8
"""Both networks halve a latent three times."""


class LatentVideoGenerator:
    """Videos by a frame model and a video model in the latents of one autoencoder.

    Args:
        autoencoder: of single frames.
        frame_network: diffusers' ``UNet2DModel``, latents of one frame; None if the video network needs none.
        video_network: ``UNetSpatioTemporalConditionModel``: noisy video and repeated frame -> video.
        schedules: of the two networks, in this order.
        sampling: how they are run.
        fps: rate of the video network.
        notes: facts for the user.
    """

    wants_label_map = False

    def __init__(
        self,
        autoencoder: FrameAutoencoder,
        frame_network: Any,
        video_network: Any,
        *,
        schedules: tuple[NoiseSchedule, NoiseSchedule],
        sampling: Sampling,
        fps: float = FPS,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._autoencoder = autoencoder
        self._frames = None if frame_network is None else place_network(frame_network, sampling)
        self._videos = place_network(video_network, sampling)
        self._schedules, self._sampling, self._fps = schedules, sampling, fps
        self._device = torch.device(sampling.device)
        self.window = int(video_network.config.num_frames)
        side = int(video_network.config.sample_size)
        self._latent = (autoencoder.channels, side, side)
        self.notes = notes
        for schedule in schedules:  # a scheduler that does not fit is refused now, not at the first clip
            build_scheduler(sampling.scheduler, schedule, sampling.steps or STEPS)

    def generate(self, requests: Sequence[ClipRequest]) -> Clips:
        """The clips of all requests (`echodfkd.models.generators.protocol.Generator`)."""
        return generate_alike(requests, self._windows_of, self._make, self._fps)

    def _windows_of(self, request: ClipRequest) -> int:
        return count_windows(own_frames(request, self._fps), self.window)

    @torch.inference_mode()
    def _make(self, requests: list[ClipRequest]) -> list[torch.Tensor]:
        return self._autoencoder.decode_clips(self.make_latents(requests))

    @torch.inference_mode()
    def make_latents(self, requests: Sequence[ClipRequest]) -> torch.Tensor:
        """Latents (B, C, T, h, w) of clips that need equally many windows; they stay on the device."""
        generators = noise_sources(requests)
        count = max(self._windows_of(request) for request in requests)
        C, h, w = self._latent
        T = self.window + (count - 1) * (self.window // 2)
        frame = None if self._frames is None else self._draw_frame(generators)
        ef = choose_fractions(requests, generators).to(self._device)
        latents = draw_noise((C, T, h, w), generators, self._device)

        def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            if frame is not None:
                x = torch.cat([x, frame[:, :, None].expand(-1, -1, T, -1, -1)], dim=1)
            return predict_windows(self._videos, x, ef, time, self.window)

        return denoise(self._scheduler(1), predict, latents, generators)

    def _draw_frame(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Latents (B, C, h, w) of the frame that each video is made around."""
        assert self._frames is not None
        network, dtype = self._frames, self._sampling.dtype

        def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return crop(network(pad(x.to(dtype)), time).sample, x.shape[-2:])

        return denoise(self._scheduler(0), predict, draw_noise(self._latent, generators, self._device), generators)

    def _scheduler(self, place: int) -> Any:
        return build_scheduler(self._sampling.scheduler, self._schedules[place], self._sampling.steps or STEPS)


def count_windows(frames: int, window: int) -> int:
    """Windows of a video, each half over the one before, that hold so many frames."""
    return 1 + max(0, math.ceil((frames - window) / (window // 2)))


def predict_windows(
    network: Any, x_BCThw: torch.Tensor, ef_B: torch.Tensor, time: torch.Tensor, window: int
) -> torch.Tensor:
    """The video network's output (B, C, T, h, w) for long videos, every window of a clip under that clip's fraction.

    Of a window after the first, only the second half is taken; the first half is context.

    Args:
        network: ``UNetSpatioTemporalConditionModel``.
        x_BCThw: its input.
        ef_B: ejection fractions, 0..1.
        time: of the sampler.
        window: frames that the network takes.
    """
    half, T = window // 2, x_BCThw.shape[2]
    starts = range(0, T - window + 1, half)
    dtype = next(network.parameters()).dtype
    x = torch.stack([x_BCThw[:, :, start : start + window] for start in starts], dim=1)  # (B, R, C, window, h, w)
    B, R = x.shape[:2]
    fractions = ef_B.to(dtype).repeat_interleave(R)[:, None, None]  # clip by clip, as x.flatten(0, 1) is
    no_ids = torch.zeros(B * R, network.config.addition_time_embed_dim, device=x.device, dtype=dtype)
    inputs = pad(x.flatten(0, 1).transpose(1, 2).to(dtype))
    output = network(inputs, time, encoder_hidden_states=fractions, added_time_ids=no_ids).sample
    output = crop(output, x_BCThw.shape[-2:]).transpose(1, 2).unflatten(0, (B, R))
    return torch.cat([output[:, 0], *(output[:, r, :, half:] for r in range(1, R))], dim=2)


def pad(x: torch.Tensor) -> torch.Tensor:
    """Rows and columns repeated at the edges up to a size that the networks halve three times."""
    rows, columns = (-x.shape[-2] % _DIVISOR, -x.shape[-1] % _DIVISOR)
    if not rows and not columns:
        return x
    edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(x, edges if x.dim() < 5 else (*edges, 0, 0), mode="replicate")


def crop(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle of this size: undoes `pad`."""
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


def load_echonet_synthetic(weights: str, sampling: Sampling) -> LatentVideoGenerator:
    """The generator out of the authors' folders.

    Args:
        weights: folder with vae/, lidm_dynamic/ (or lidm/) and lvdm/.
        sampling: how it is run.

    Raises:
        InputError: a file is missing or cannot be used; which, and where it is published.
        ConfigError: the scheduler or number of steps does not fit.
    """
    files = PublishedFiles(Path(weights), HOME)
    lidm, lvdm = files.inside("lidm_dynamic", "lidm"), files.inside("lvdm")
    autoencoder = FrameAutoencoder(load_network(files.inside("vae"), "AutoencoderKL"), sampling.device)
    frame_network = load_network(lidm, "UNet2DModel")
    video_network = load_network(lvdm, "UNetSpatioTemporalConditionModel")
    check_latents(autoencoder, frame_network, video_network, files)
    schedules, notes = [], []
    for part in (lidm, lvdm):
        schedule, note = _schedule_of(part)
        schedules.append(schedule)
        notes += [note] if note else []
    return LatentVideoGenerator(
        autoencoder,
        frame_network,
        video_network,
        schedules=(schedules[0], schedules[1]),
        sampling=sampling,
        notes=tuple(notes),
    )


def check_latents(autoencoder: FrameAutoencoder, frame: Any, video: Any, files: PublishedFiles) -> None:
    """Raise `InputError` if the three networks do not share one latent space."""
    C = autoencoder.channels
    context = 0 if frame is None else C
    own = video.config
    found = [own.in_channels, own.out_channels, own.cross_attention_dim, own.sample_size, own.num_frames % 2]
    side = own.sample_size if frame is None else frame.config.sample_size
    if found != [C + context, C, 1, side, 0] or not isinstance(side, int):
        raise InputError(
            f"{files.option}: {files.folder}: the autoencoder has {C} latent channels and the frame network a side of"
            f" {side}; the video network takes {found[0]} channels and gives {found[1]}, attends to {found[2]} numbers,"
            f" on a side of {found[3]}, in windows of {own.num_frames} frames (expected {C + context}, {C}, 1, {side}"
            " and an even number)"
        )


def _schedule_of(files: PublishedFiles) -> tuple[NoiseSchedule, str]:
    """The noise schedule beside a network, and a note if there is none."""
    if not (files.folder / "config.yaml").is_file():
        return PUBLISHED_NOISE, (
            f"{files.folder} has no config.yaml: the published noise schedule is taken (v_prediction, linear)"
        )
    where = f"{files.option}: {files.folder / 'config.yaml'}: noise_scheduler"
    values = files.read_yaml("config.yaml").get("noise_scheduler")
    if not isinstance(values, dict):
        raise InputError(f"{where} is missing")
    return read_schedule(values, where), ""
