"""EchoNet-Synthetic's re-identification network: frames to features whose correlation tells whether two are one heart.

Published files (huggingface.co/HReynaud/EchoNet-Synthetic): ``reidentification_dynamic/config.json`` and
``reidentification_dynamic_best_network.pth``, a ResNet-50 on latents, with ``vae``. Which correlation is too large is
not decided here.

The authors bring the latents of a whole video, or of all synthetic frames together, to -1 .. 1 before they are encoded,
so that one frame's features depend on the others; here each frame is brought there by itself.

Legend: N frames, C latent channels, h rows and w columns of a latent, K features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.core.errors import InputError
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.autoencoder import FrameAutoencoder
from echodfkd.models.generators.echonet_synthetic import HOME
from echodfkd.models.generators.weight_files import build_network, load_network
from echodfkd.models.teachers.torchvision_guard import import_torchvision

FOLDERS = ("reidentification_dynamic", "reidentification_ped_a4c", "reidentification_ped_psax")
OPTION = "privacy.weights"


class ReidentificationEncoder:
    """Features of frames.

    Args:
        autoencoder: of single frames.
        network: latents (N, C, h, w) -> (N, K).
        side: of the frames that it was trained on.
    """

    def __init__(self, autoencoder: FrameAutoencoder, network: nn.Module, *, side: int) -> None:
        self._autoencoder, self._network, self._side = autoencoder, network.to(autoencoder.device), side

    @torch.inference_mode()
    def encode(self, frames_NHW: np.ndarray) -> np.ndarray:
        """Features float32 (N, K), 0..1, of grey frames uint8 (N, H, W)."""
        frames = torch.from_numpy(np.ascontiguousarray(frames_NHW)).float()
        if frames.shape[1:] != (self._side, self._side):
            size = (self._side, self._side)
            frames = F.interpolate(frames[:, None], size=size, mode="bilinear", align_corners=False, antialias=True)[
                :, 0
            ]
        return self.encode_latents(self._autoencoder.encode(frames)).cpu().numpy()

    @torch.inference_mode()
    def encode_latents(self, latents_NChw: torch.Tensor) -> torch.Tensor:
        """Features (N, K) of latents as the autoencoder gives them."""
        low, high = (values[:, None, None, None] for values in latents_NChw.flatten(1).aminmax(dim=1))
        return torch.sigmoid(self._network((latents_NChw - low) / (high - low).clamp(min=1e-9) * 2 - 1))


def correlations(features_NK: np.ndarray, reference_MK: np.ndarray) -> np.ndarray:
    """Pearson's correlation of every frame's features with those of every reference, (N, M)."""

    def unit(features: np.ndarray) -> np.ndarray:
        centred = features.astype(np.float64) - features.mean(axis=1, keepdims=True)
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    return unit(features_NK) @ unit(reference_MK).T


def load_reidentification(weights: str, device: str, *, option: str = OPTION) -> ReidentificationEncoder:
    """The encoder out of the authors' folders.

    Args:
        weights: folder with vae/ and one of `FOLDERS`; the first that is there is taken.
        device: torch device.
        option: that names the folder.

    Raises:
        InputError: a file is missing or cannot be used, or torchvision is not installed.
    """
    files = PublishedFiles(Path(weights), HOME, option)
    part = files.inside(*FOLDERS)
    config = part.read_json("config.json")
    where = f"{option}: {part.folder / 'config.json'}"
    channels, features = config.get("n_channels"), config.get("n_features")
    if config.get("siamese_architecture") != "ResNet-50" or type(channels) is not int or type(features) is not int:
        raise InputError(
            f"{where} must hold siamese_architecture ResNet-50, n_channels and n_features, got"
            f" {str(config.get('siamese_architecture'))[:40]!r}, {str(channels)[:20]}, {str(features)[:20]}"
        )
    resnet50 = import_torchvision().models.resnet50

    def siamese(*, n_channels: int, n_features: int) -> Any:
        """The authors' network: a ResNet-50 of other inputs and outputs, and a layer that compares two of them."""
        network: Any = nn.Module()
        network.model = resnet50(weights=None)
        network.model.conv1 = nn.Conv2d(n_channels, 64, 7, stride=2, padding=3, bias=False)
        network.model.fc = nn.Linear(2048, n_features)
        network.fc_end = nn.Linear(n_features, 1)
        return network

    name = f"{part.folder.name}_best_network.pth"
    tensors = part.read_tensors(name)
    network = build_network(
        siamese, {"n_channels": channels, "n_features": features}, tensors, (where, str(part.folder / name))
    )
    autoencoder = FrameAutoencoder(load_network(files.inside("vae"), "AutoencoderKL"), device)
    if autoencoder.channels != channels:
        raise InputError(f"{where}: n_channels is {channels}, the autoencoder's latents have {autoencoder.channels}")
    side = int(autoencoder.network.config.sample_size)
    return ReidentificationEncoder(autoencoder, network.model, side=side)
