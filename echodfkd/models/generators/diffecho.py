"""DiffEcho: stills of CAMUS by Stable Diffusion, from a prompt, or a prompt and a label map (ControlNet).

Ashrafian et al., "Vision-Language Synthetic Data Enhances Echocardiography Downstream Tasks", arXiv 2403.19880. Its
code (github.com/Pooria90/DiffEcho) writes diffusers' folders; no weights are published, so the folder is the user's
own: ``unet``, ``vae``, ``text_encoder``, ``tokenizer``, ``scheduler`` and, for maps, ``controlnet``; or
``class_ch4_ed`` and so on, each with ``unet`` and ``scheduler``, for stills without either.

A still is a clip of one frame. With a map of every frame, it is moved as its heart moves (`still_motion`).

Legend: B clips, T frames, H rows, W columns, h and w those of a latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import ClipError
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.autoencoder import FrameAutoencoder
from echodfkd.models.generators.clip_text import PromptEncoder
from echodfkd.models.generators.frames import Clips, first_map, generate_alike, noise_sources
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
from echodfkd.models.generators.still_motion import move_still
from echodfkd.models.generators.weight_files import load_network

HOME = "https://github.com/Pooria90/DiffEcho (code; its authors publish no weights)"
GUIDANCE, STEPS, PIXEL_STEPS = 7.5, 50, 1000
"""diffusers' own defaults, which the authors' scripts take, and their number of steps."""
VIEWS = {"A4C": ("four-chamber", "class_ch4_ed"), "A2C": ("two-chamber", "class_ch2_ed")}
"""View -> its words in a prompt, and the folder of its stills without prompt."""
MAP_LABELS = 3
"""Cavity, myocardium and atrium have the codes 1, 2 and 3, here as in CAMUS; the picture of a map shows code / 3."""

Draw = Callable[[Sequence[ClipRequest], Sequence[torch.Generator]], torch.Tensor]


class DiffEcho:
    """Stills as clips.

    Args:
        draw: requests and their generators -> grey levels (B, H, W).
        wants_label_map: whether it draws to label maps.
    """

    notes: tuple[str, ...] = (
        "DiffEcho makes stills: clips of more than one frame are one still that moves as its label maps do, and no"
        " ejection fraction is asked of it",
    )

    def __init__(self, draw: Draw, *, wants_label_map: bool) -> None:
        self._draw, self.wants_label_map = draw, wants_label_map

    def generate(self, requests: Sequence[ClipRequest]) -> Clips:
        """The clips of all requests (`echodfkd.models.generators.protocol.Generator`)."""
        return generate_alike(requests, self._fault, self._make, None)

    def _fault(self, request: ClipRequest) -> ClipError | None:
        if (view := _view(request)) not in VIEWS:
            return ClipError(f"{request.clip_id}: view {view}, DiffEcho knows {', '.join(VIEWS)}")
        maps = request.label_map
        if self.wants_label_map and maps is None:
            return ClipError(f"{request.clip_id}: DiffEcho's ControlNet needs a label map")
        moves = self.wants_label_map and maps is not None and maps.ndim == 3 and len(maps) == request.frames
        if request.frames > 1 and not moves:
            return ClipError(
                f"{request.clip_id}: {request.frames} frames; a still moves only with a ControlNet and a label map of"
                " every frame (window.frames)"
            )
        return None

    @torch.inference_mode()
    def _make(self, requests: list[ClipRequest]) -> list[torch.Tensor]:
        generators = noise_sources(requests)
        stills = self._draw(requests, generators).cpu()
        return [
            still[None] if request.frames == 1 else move_still(still, _maps(request))
            for still, request in zip(stills, requests, strict=True)
        ]


class PromptedStills:
    """Stills by Stable Diffusion.

    Args:
        autoencoder: of images.
        network: diffusers' ``UNet2DConditionModel``.
        control: ``ControlNetModel``, or None.
        prompts: the text encoder.
        schedule: of the network.
        sampling: how it is run.
    """

    def __init__(
        self,
        autoencoder: FrameAutoencoder,
        network: Any,
        control: Any,
        *,
        prompts: PromptEncoder,
        schedule: NoiseSchedule,
        sampling: Sampling,
    ) -> None:
        self._autoencoder, self._prompts, self._schedule = autoencoder, prompts, schedule
        self._network = place_network(network, sampling)
        self._control = None if control is None else place_network(control, sampling)
        self._sampling = replace(
            sampling, scheduler=sampling.scheduler or "unipc", guidance=sampling.guidance or GUIDANCE
        )
        self._side = int(network.config.sample_size)
        self._scheduler()

    def _scheduler(self) -> Any:
        return build_scheduler(self._sampling.scheduler, self._schedule, self._sampling.steps or STEPS)

    def draw(self, requests: Sequence[ClipRequest], generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Grey levels (B, H, W) of the requests' views, and maps if there is a ControlNet."""
        device, dtype = torch.device(self._sampling.device), self._sampling.dtype
        guided = self._sampling.guidance != 1
        texts = [prompt_of(request, mapped=self._control is not None) for request in requests]
        words = self._prompts.encode(["" for _ in texts] + texts if guided else texts).to(dtype)
        side = self._side * self._autoencoder.shrink
        pictures = None
        if self._control is not None:
            pictures = torch.stack([map_picture(request, side) for request in requests]).to(device, dtype)
            pictures = torch.cat([pictures, pictures]) if guided else pictures

        def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            x = (torch.cat([x, x]) if guided else x).to(dtype)
            extra: dict[str, Any] = {}
            if self._control is not None:
                added = self._control(x, time, words, controlnet_cond=pictures, return_dict=False)
                extra = {"down_block_additional_residuals": added[0], "mid_block_additional_residual": added[1]}
            output = self._network(x, time, encoder_hidden_states=words, **extra).sample.float()
            if not guided:
                return output
            without, asked = output.chunk(2)
            return without + self._sampling.guidance * (asked - without)

        noise = draw_noise((self._autoencoder.channels, self._side, self._side), generators, device)
        return self._autoencoder.decode(denoise(self._scheduler(), predict, noise, generators))


class PlainStills:
    """Stills without prompt or map, each view by a network of its own on grey pixels.

    Args:
        networks: view -> ``UNet2DModel`` and its schedule.
        sampling: how they are run.
    """

    def __init__(self, networks: dict[str, tuple[Any, NoiseSchedule]], sampling: Sampling) -> None:
        self._networks = {view: (place_network(network, sampling), one) for view, (network, one) in networks.items()}
        self._sampling = sampling
        for _, schedule in networks.values():
            build_scheduler(sampling.scheduler, schedule, sampling.steps or PIXEL_STEPS)

    def draw(self, requests: Sequence[ClipRequest], generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Grey levels (B, H, W); one still at a time, since views have networks of their own."""
        return torch.stack([self._draw(*one) for one in zip(requests, generators, strict=True)])

    def _draw(self, request: ClipRequest, generator: torch.Generator) -> torch.Tensor:
        network, schedule = self._networks[_view(request)]
        dtype, device = self._sampling.dtype, torch.device(self._sampling.device)
        scheduler = build_scheduler(self._sampling.scheduler, schedule, self._sampling.steps or PIXEL_STEPS)
        side = int(network.config.sample_size)
        noise = draw_noise((int(network.config.in_channels), side, side), [generator], device)
        still = denoise(scheduler, lambda x, time: network(x.to(dtype), time).sample, noise, [generator])
        return ((still[0].mean(dim=0) + 1) * 127.5).cpu()


def prompt_of(request: ClipRequest, *, mapped: bool) -> str:
    """The authors' prompt for this view, at end-diastole: of the network with maps, or of that without."""
    words = VIEWS[_view(request)][0]
    if mapped:
        return f"an ultrasound image of heart in {words} view"
    return f"An ultrasound image shows the heart in a {words} view during the ed phase."


def map_picture(request: ClipRequest, side: int) -> torch.Tensor:
    """The first label map as ControlNet's picture (3, side, side), 0..1; other structures than three are black."""
    labels = torch.from_numpy(np.ascontiguousarray(first_map(_maps(request))))
    grey = torch.where(labels <= MAP_LABELS, labels, 0).float() / MAP_LABELS
    return F.interpolate(grey[None, None], size=(side, side), mode="nearest-exact")[0].expand(3, -1, -1)


def _maps(request: ClipRequest) -> np.ndarray:
    assert request.label_map is not None
    return request.label_map


def _view(request: ClipRequest) -> str:
    return str(request.conditions.get("view", "A4C"))


def load_diffecho(weights: str, sampling: Sampling) -> DiffEcho:
    """The generator out of folders that the authors' scripts write.

    Args:
        weights: the folder.
        sampling: how it is run.

    Raises:
        InputError: a file is missing or cannot be used, or transformers is not installed.
        ConfigError: the scheduler or number of steps does not fit.
    """
    files = PublishedFiles(Path(weights), HOME)
    found = [view for view, (_, folder) in VIEWS.items() if (files.folder / folder).is_dir()]
    if found:
        plain = {view: _plain(files.inside(VIEWS[view][1])) for view in VIEWS}
        return DiffEcho(PlainStills(plain, sampling).draw, wants_label_map=False)
    has_control = (files.folder / "controlnet").is_dir()
    stills = PromptedStills(
        FrameAutoencoder(load_network(files.inside("vae"), "AutoencoderKL"), sampling.device),
        load_network(files.inside("unet"), "UNet2DConditionModel"),
        load_network(files.inside("controlnet"), "ControlNetModel") if has_control else None,
        prompts=PromptEncoder(files, sampling.device),
        schedule=_schedule(files),
        sampling=sampling,
    )
    return DiffEcho(stills.draw, wants_label_map=has_control)


def _plain(files: PublishedFiles) -> tuple[Any, NoiseSchedule]:
    return load_network(files.inside("unet"), "UNet2DModel"), _schedule(files)


def _schedule(files: PublishedFiles) -> NoiseSchedule:
    part = files.inside("scheduler")
    where = f"{files.option}: {part.folder / 'scheduler_config.json'}"
    return read_schedule(part.read_json("scheduler_config.json"), where)
