"""EchoLVFM: a whole video in one step of a network, from one frame and an ejection fraction.

Oladokun et al., arXiv 2603.13967. Published files (huggingface.co/EngEmmanuel/EchoLVFM-Weights): ``echolvfm_h1``,
``echolvfm_h2`` (mean flow, one step) and ``linear`` (24 points of time), each ``config.yaml`` and
``model.safetensors``; the latents' mean and standard deviation, ``CAMUS_Scaling_4f4.pt``, lie in the authors' code
repository. Autoencoder and the frame to start from are EchoFlow's (`echodfkd.models.generators.echoflow`).

The authors' ``UNet3D`` is diffusers' ``UNetSpatioTemporalConditionModel`` whose added time is the flow's second time,
``cond_t``, under another name of weights.

Legend: B clips, C latent channels, T frames, h rows and w columns of a latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.autoencoder import FrameAutoencoder
from echodfkd.models.generators.echoflow import HOME as HOME_OF_FRAMES
from echodfkd.models.generators.echoflow import FrameFlow, load_frame_flow, mask_fault, read_statistics
from echodfkd.models.generators.frames import Clips, choose_fractions, generate_alike, noise_sources
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import Sampling, draw_noise, place_network
from echodfkd.models.generators.weight_files import build_network, import_diffusers

HOME = "https://huggingface.co/EngEmmanuel/EchoLVFM-Weights (CAMUS_Scaling_4f4.pt: sample_data of the authors' code)"
FOLDERS = ("echolvfm_h2", "echolvfm_h1", "linear")
LINEAR_STEPS = 23
"""Intervals between the authors' 24 points of time."""
MAX_FRAMES = 1024
_OWN_TIME, _ADDED_TIME = "cond_t_embedding.", "add_embedding."
_KEYS = (
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "num_attention_heads",
    "cross_attention_dim",
    "layers_per_block",
    "transformer_layers_per_block",
)
_SIZES = ("sample_size", "in_channels", "out_channels", "num_frames")


class EchoLVFM:
    """Clips of EchoLVFM, each around EchoFlow's frame to the mask of its request.

    Args:
        autoencoder: EchoFlow's, of single frames.
        frames: EchoFlow's frame network.
        videos: the video network.
        linear: whether it is the many-step flow (noise at time 0) and not the mean flow (noise at time 1).
        statistics: mean and standard deviation of its latents, per channel.
        sampling: how it is run.
    """

    wants_label_map = True
    notes: tuple[str, ...] = (
        "EchoLVFM's clips fit their label map in the first frame only, and have no rate of their own: its training"
        " clips were those of CAMUS, from ED to ES at some 50 frames a second. Frames are taken as they come",
    )

    def __init__(
        self,
        autoencoder: FrameAutoencoder,
        frames: FrameFlow,
        videos: Any,
        *,
        linear: bool,
        statistics: tuple[torch.Tensor, torch.Tensor],
        sampling: Sampling,
    ) -> None:
        self._autoencoder, self._frames, self._linear, self._sampling = autoencoder, frames, linear, sampling
        self._videos = place_network(videos, sampling)
        self._mean, self._std = (values.view(1, -1, 1, 1).to(sampling.device) for values in statistics)
        self.length = int(videos.config.num_frames)
        if sampling.scheduler not in ("", "flow_euler"):
            raise ConfigError(
                f"source.generator.scheduler: got {sampling.scheduler}, EchoLVFM has steps of its own; allowed is"
                " flow_euler"
            )

    def generate(self, requests: Sequence[ClipRequest]) -> Clips:
        """The clips of all requests (`echodfkd.models.generators.protocol.Generator`)."""
        return generate_alike(requests, self._fault, self._make, None)

    def _fault(self, request: ClipRequest) -> ClipError | None:
        if request.frames > self.length:
            return ClipError(
                f"{request.clip_id}: {request.frames} frames, EchoLVFM makes {self.length} (window.frames)"
            )
        return mask_fault(request)

    @torch.inference_mode()
    def _make(self, requests: list[ClipRequest]) -> list[torch.Tensor]:
        generators = noise_sources(requests)
        device, dtype = torch.device(self._sampling.device), self._sampling.dtype
        fractions = choose_fractions(requests, generators).to(device, dtype)[:, None, None]
        frame = self._frames.draw(requests, generators)
        raw = frame * self._autoencoder.std + self._autoencoder.mean
        condition = self._condition((raw - self._mean) / self._std, requests)
        B, T, (C, h, w) = len(requests), self.length, self._frames.shape

        def predict(x: torch.Tensor, time: float, second: float) -> torch.Tensor:
            inputs = pad_around(torch.cat([x, condition], dim=1).transpose(1, 2)).to(dtype)
            when = torch.full((B,), time, device=device)
            added = torch.full((B, 1), second, device=device)
            output = self._videos(inputs, when, encoder_hidden_states=fractions, added_time_ids=added).sample
            edge = (output.shape[-1] - w) // 2
            return output[..., edge : edge + h, edge : edge + w].transpose(1, 2).float()

        noise = draw_noise((C, T, h, w), generators, device)
        if self._linear:
            steps = self._sampling.steps or LINEAR_STEPS
            latents = midpoint(predict, noise, steps) if not self._sampling.scheduler else euler(predict, noise, steps)
        else:
            latents = mean_flow(predict, noise, self._sampling.steps or 1)
        latents = latents * self._std[:, :, None] + self._mean[:, :, None] - self._autoencoder.mean[:, :, None]
        return self._autoencoder.decode_clips(latents / self._autoencoder.std[:, :, None])

    def _condition(self, frame_BChw: torch.Tensor, requests: Sequence[ClipRequest]) -> torch.Tensor:
        """The frame that is shown, first, and a channel of ones up to each clip's last frame: (B, C + 1, T, h, w)."""
        B, C, h, w = frame_BChw.shape
        shown = torch.zeros(B, C + 1, self.length, h, w, device=frame_BChw.device)
        shown[:, :C, 0] = frame_BChw
        for place, request in enumerate(requests):
            shown[place, C, : request.frames] = 1
        return shown


Velocity = Callable[[torch.Tensor, float, float], torch.Tensor]
"""Noisy latents, time and the mean flow's second time -> velocity."""


def mean_flow(predict: Velocity, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """Latents by the mean flow: in one step over the whole way, or in several, each at the speed of its moment."""
    if steps == 1:
        return noise - predict(noise, 1.0, 1.0)
    x = noise
    for step in range(steps):
        x = x - predict(x, 1 - step / steps, 0.0) / steps
    return x


def euler(predict: Velocity, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """Latents by the linear flow, from noise at time 0 to time 1."""
    x = noise
    for step in range(steps):
        x = x + predict(x, step / steps, 0.0) / steps
    return x


def midpoint(predict: Velocity, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """As `euler`, each step at the velocity in its middle: two calls a step, as published."""
    x = noise
    for step in range(steps):
        half = x + predict(x, step / steps, 0.0) / (2 * steps)
        x = x + predict(half, (step + 0.5) / steps, 0.0) / steps
    return x


def pad_around(x: torch.Tensor) -> torch.Tensor:
    """Rows and columns (B, T, C, h, w) wrapped around up to the next power of two, as the network was trained."""
    edge = (2 ** math.ceil(math.log2(x.shape[-1])) - x.shape[-1]) // 2
    return F.pad(x, (edge, edge, edge, edge, 0, 0), mode="circular") if edge else x


def load_echolvfm(weights: str, sampling: Sampling) -> EchoLVFM:
    """The generator out of the authors' folders.

    Args:
        weights: folder with one of `FOLDERS` (the first that is there is taken), CAMUS_Scaling_4f4.pt, and EchoFlow's
            vae/, lifm/ and scaling.pt.
        sampling: how it is run.

    Raises:
        InputError: a file is missing or cannot be used; which, and where it is published.
        ConfigError: the scheduler does not fit.
    """
    files = PublishedFiles(Path(weights), HOME)
    part = files.inside(*FOLDERS)
    config = part.read_yaml("config.yaml")
    where = f"{files.option}: {part.folder / 'config.yaml'}"
    arguments, linear = _read_config(config, where)
    tensors = {key.removeprefix("model."): value for key, value in part.read_tensors("model.safetensors").items()}
    if linear:  # this flow has no second time: the network's own answer to it is silenced
        tensors |= {key: torch.zeros_like(value) for key, value in tensors.items() if key.startswith(_OWN_TIME)}
    tensors = {key.replace(_OWN_TIME, _ADDED_TIME): value for key, value in tensors.items()}
    network_class = import_diffusers().UNetSpatioTemporalConditionModel
    videos = build_network(network_class, arguments, tensors, (where, str(part.folder / "model.safetensors")))
    of_frames = replace(sampling, scheduler="", steps=0)  # both settings are the video's
    autoencoder, frames = load_frame_flow(PublishedFiles(Path(weights), HOME_OF_FRAMES), of_frames)
    C, h, _ = frames.shape
    if (arguments["in_channels"], arguments["out_channels"], arguments["sample_size"]) != (2 * C + 1, C, h):
        raise InputError(
            f"{where}: takes {arguments['in_channels']} and gives {arguments['out_channels']} channels of side"
            f" {arguments['sample_size']}; EchoFlow's frames need {2 * C + 1}, {C} and {h}"
        )
    statistics = read_statistics(files, "CAMUS_Scaling_4f4.pt", channels=C)
    return EchoLVFM(autoencoder, frames, videos, linear=linear, statistics=statistics, sampling=sampling)


def _read_config(config: dict[str, Any], where: str) -> tuple[dict[str, Any], bool]:
    """Arguments of the network, and whether its flow is the linear one. Raises `InputError`."""
    model, flow = config.get("model"), config.get("flow")
    sizes, kwargs = (model.get("init"), model.get("kwargs")) if isinstance(model, dict) else (None, None)
    kind = flow.get("type") if isinstance(flow, dict) else None
    if not isinstance(sizes, dict) or not isinstance(kwargs, dict) or kind not in ("mean", "linear"):
        raise InputError(f"{where} must hold model.init, model.kwargs and flow.type (mean or linear), got {kind!r}")
    lacking = [f"model.init.{name}" for name in _SIZES if type(sizes.get(name)) is not int]
    lacking += [f"model.kwargs.{name}" for name in _KEYS if name not in kwargs]
    if lacking or set(kwargs) - set(_KEYS) or not 0 < sizes["num_frames"] <= MAX_FRAMES:
        strange = ", ".join(lacking or sorted(map(str, set(kwargs) - set(_KEYS)))) or "num_frames"
        raise InputError(f"{where}: {strange[:200]} is missing, not known here, or out of bounds")
    if kwargs["cross_attention_dim"] != 1:
        raise InputError(f"{where}: cross_attention_dim is {kwargs['cross_attention_dim']}, expected 1 (the fraction)")
    widths = kwargs["block_out_channels"]
    first = widths[0] if isinstance(widths, list) and widths else 0
    added = {"addition_time_embed_dim": first, "projection_class_embeddings_input_dim": first}
    return {**{name: sizes[name] for name in _SIZES}, **kwargs, **added}, kind == "linear"
