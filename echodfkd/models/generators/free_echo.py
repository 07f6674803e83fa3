"""Free-Echo: clips around one label map, by a video diffusion that was trained without any.

Van Phi et al., "Training-Free Condition Video Diffusion Models for single frame Spatial-Semantic Echocardiogram
Synthesis", MICCAI 2024. Published files (github.com/gungui98/echo-free): ``weights/echonet_model.pt`` and
``camus_model.pt`` (key "ema"), and the reference frames ``images/echonet.png`` and ``camus.png``.

The map at end-diastole becomes a grey picture, is given the reference frame's grey levels, and takes the place of
the sample at one of the first steps (as SDEdit). Two faults of the authors' sampler are not repeated: its picture
carries less noise than the network is told, none at all above a noise of 50, and the steps before it are computed in
vain. Here the picture carries the noise of its step, and sampling begins there.

Legend: B clips, C channels, T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import ClipError, ConfigError, InputError, one_line
from echodfkd.core.records import CHAMBER_NAMES
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.frames import Clips, generate_alike, noise_sources
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import Sampling, draw_noise, place_network
from echodfkd.models.generators.video_unet import CHANNELS, VideoUNet
from echodfkd.models.generators.weight_files import build_network

HOME = "https://github.com/gungui98/echo-free"
DATA_SETS = ("echonet", "camus")
SIDE, FRAMES, STEPS = 128, 16, 64
INJECTION = 15 / 64
"""The authors' t_i: the step at which the picture takes the sample's place, as a share of all."""
SIGMA_MIN, SIGMA_MAX, SIGMA_DATA, RHO = 0.002, 80.0, 0.5, 7.0
CHURN, CHURN_FROM, CHURN_TO, CHURN_NOISE = 80.0, 0.05, 50.0, 1.003
"""Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, Table 5."""
CONE_GREY = 0.5
GREYS = {"LV": 0.0, "myocardium": 1.0, "LA": 0.2}
"""Grey levels of the authors' picture; other structures are as the cone. Outside of the cone it is black."""
LEVELS = 500
"""Grey levels of each picture that are matched with one another."""
ENTROPY = 0.1
"""Regularisation of the transport between them; squared distances over three equal channels."""
MAX_REFERENCE_SIDE = 4096


class FreeEcho:
    """Clips of Free-Echo.

    Args:
        network: the published network.
        reference_HW: grey levels 0..1 of a frame whose look is taken.
        cone_in_map: whether the network is shown the cone (CAMUS) or nothing (EchoNet).
        sampling: how it is run.
    """

    wants_label_map = True
    notes: tuple[str, ...] = (
        "Free-Echo's clips fit only the label map of ED, in their first frame, follow no ejection fraction, and have no"
        " rate of their own: frames are taken as they come",
    )

    def __init__(
        self, network: VideoUNet, reference_HW: torch.Tensor, *, cone_in_map: bool, sampling: Sampling
    ) -> None:
        if sampling.scheduler:
            raise ConfigError(
                f"source.generator.scheduler: got {sampling.scheduler}; Free-Echo has its own (Karras et al., two calls"
                " a step), leave it empty"
            )
        self._network, self._sampling = place_network(network, sampling), sampling
        self._reference = _resized(reference_HW, SIDE)
        self._cone = cone_of(self._reference)
        self._cone_in_map = cone_in_map
        self._steps = sampling.steps or STEPS

    def generate(self, requests: Sequence[ClipRequest]) -> Clips:
        """The clips of all requests (`echodfkd.models.generators.protocol.Generator`)."""
        return generate_alike(requests, self._fault, self._make, None)

    def _fault(self, request: ClipRequest) -> ClipError | None:
        if request.frames > FRAMES:
            return ClipError(f"{request.clip_id}: {request.frames} frames, Free-Echo makes {FRAMES} (window.frames)")
        if request.label_map is None or not widest_map(request.label_map).any():
            return ClipError(f"{request.clip_id}: its label map shows no structure, which the clip is made around")
        return None

    @torch.inference_mode()
    def _make(self, requests: list[ClipRequest]) -> list[torch.Tensor]:
        generators = noise_sources(requests)
        device, dtype = torch.device(self._sampling.device), self._sampling.dtype
        pictures = torch.stack([self.picture(request) for request in requests]).to(device)
        start = (pictures * 2 - 1)[:, None, None].expand(-1, CHANNELS, FRAMES, -1, -1)
        cone = self._cone if self._cone_in_map else torch.zeros_like(self._cone)
        maps = cone.long().to(device).expand(len(requests), -1, -1)

        def clean(x: torch.Tensor, sigma: float) -> torch.Tensor:
            """The network's estimate of the clip without noise."""
            near = sigma**2 + SIGMA_DATA**2
            log_noise = torch.full((len(x),), math.log(sigma) / 4, device=device)
            answer = self._network((x / math.sqrt(near)).to(dtype), log_noise, maps).float()
            return x * (SIGMA_DATA**2 / near) + answer * (sigma * SIGMA_DATA / math.sqrt(near))

        sigmas = noise_levels(self._steps)
        first = min(round(INJECTION * self._steps), self._steps - 1)
        shape = start.shape[1:]
        x = start + sigmas[first] * draw_noise(shape, generators, device)
        for sigma, following in zip(sigmas[first:-1], sigmas[first + 1 :], strict=True):
            churn = min(CHURN / self._steps, math.sqrt(2) - 1) if CHURN_FROM <= sigma <= CHURN_TO else 0.0
            raised = sigma * (1 + churn)
            noise = CHURN_NOISE * draw_noise(shape, generators, device)
            x = x + math.sqrt(raised**2 - sigma**2) * noise
            slope = (x - clean(x, raised)) / raised
            moved = x + (following - raised) * slope
            if following > 0:
                slope = (slope + (moved - clean(moved, following)) / following) / 2
                moved = x + (following - raised) * slope
            x = moved
        return list((x.clamp(-1, 1).mean(dim=1) + 1) * 127.5)

    def picture(self, request: ClipRequest) -> torch.Tensor:
        """Grey levels 0..1 (H, W) that the request's map at ED stands for, with the look of the reference frame."""
        assert request.label_map is not None
        labels = torch.from_numpy(np.ascontiguousarray(widest_map(request.label_map)))
        greys = torch.full((len(CHAMBER_NAMES),), CONE_GREY)
        for name, grey in GREYS.items():
            greys[CHAMBER_NAMES.index(name)] = grey
        drawn = _resized(greys[labels.long().clamp(max=len(CHAMBER_NAMES) - 1)], SIDE)
        inside = _resized((labels > 0).float(), SIDE) > 0
        return match_levels(torch.where(self._cone | inside, drawn, 0.0), self._reference)


def widest_map(label_map: np.ndarray) -> np.ndarray:
    """The map (H, W) at end-diastole: of the frame in which the left ventricle is largest."""
    if label_map.ndim == 2:
        return label_map
    return label_map[int((label_map == CHAMBER_NAMES.index("LV")).sum(axis=(1, 2)).argmax())]


def noise_levels(steps: int) -> list[float]:
    """Noise of each step, falling to 0 (Karras et al., equation 5)."""
    ends = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [*((ends[0] + step / max(steps - 1, 1) * (ends[1] - ends[0])) ** RHO for step in range(steps)), 0.0]


def cone_of(frame_HW: torch.Tensor) -> torch.Tensor:
    """The scanner's sector, bool (H, W): pixels that are not black, and those within two pixels of them."""
    return F.max_pool2d((frame_HW > 0.02).float()[None, None], 5, stride=1, padding=2)[0, 0] > 0


def match_levels(source_HW: torch.Tensor, reference_HW: torch.Tensor) -> torch.Tensor:
    """The source with the reference's grey levels, 0..1, by entropic optimal transport (Sinkhorn).

    Both pictures are read at as many evenly spaced quantiles; the authors draw that many pixels.
    """
    shares = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
    source, target = (torch.quantile(picture.double().flatten(), shares) for picture in (source_HW, reference_HW))
    kernel = torch.exp(-3 * (source[:, None] - target[None, :]) ** 2 / ENTROPY)
    rows = torch.ones(LEVELS, dtype=torch.float64)
    for _ in range(200):
        columns = 1 / (kernel.T @ rows)
        rows, before = 1 / (kernel @ columns), rows
        if float((rows / before - 1).abs().max()) < 1e-9:
            break
    plan = rows[:, None] * kernel * columns[None, :]
    moved = plan @ target / plan.sum(dim=1)
    values = source_HW.double().flatten()
    place = torch.searchsorted(source, values.contiguous()).clamp(max=LEVELS - 1)
    below = (place - 1).clamp(min=0)
    nearest = torch.where((values - source[below]).abs() <= (source[place] - values).abs(), below, place)
    matched = moved[nearest] + values - source[nearest]
    return matched.clamp(0, 1).float().view(source_HW.shape)


def _resized(picture_HW: torch.Tensor, side: int) -> torch.Tensor:
    size = (side, side)
    return F.interpolate(picture_HW[None, None], size=size, mode="bilinear", align_corners=False, antialias=True)[0, 0]


def read_reference(place: Path, option: str) -> torch.Tensor:
    """Grey levels 0..1 (H, W) of a PNG file. Raises `InputError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(place, formats=("PNG",)) as image:
            if max(image.size) > MAX_REFERENCE_SIDE:
                raise InputError(f"{option}: {place} has {image.size} pixels, at most {MAX_REFERENCE_SIDE} a side")
            pixels = np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{option}: {place} is no readable PNG file: {one_line(error)}") from error
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def load_free_echo(weights: str, sampling: Sampling) -> FreeEcho:
    """The generator out of the authors' files.

    Args:
        weights: folder like the authors' repository: weights/NAME_model.pt and images/NAME.png, or both at its top;
            NAME is echonet, which is looked for first, or camus.
        sampling: how it is run.

    Raises:
        InputError: a file is missing or cannot be used; which, and where it is published.
        ConfigError: a scheduler is asked for.
    """
    files = PublishedFiles(Path(weights), HOME)
    place = files.find(*(f"{part}{name}_model.pt" for name in DATA_SETS for part in ("weights/", "")))
    name = place.name.removesuffix("_model.pt")
    reference = read_reference(files.find(f"images/{name}.png", f"{name}.png"), files.option)
    found = files.read_tensors(str(place.relative_to(files.folder)), entries=("ema",))
    tensors = {key.removeprefix("denoise_fn."): value for key, value in found.items()}
    first = tensors.get("init_conv.bias")
    if first is None or first.dim() != 1 or not 16 <= len(first) <= 512 or len(first) % 8:
        raise InputError(f"{files.option}: {place} is no network of Free-Echo: it has no init_conv.bias of its width")
    network = build_network(VideoUNet, {"width": len(first)}, tensors, (str(place), str(place)))
    return FreeEcho(network, reference, cone_in_map=name == "camus", sampling=sampling)
