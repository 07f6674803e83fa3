"""The published re-identification network, against torchvision's own ResNet-50."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.core.errors import InputError
from echodfkd.models.generators.reidentification import correlations, load_reidentification
from echodfkd.models.generators.weight_files import import_diffusers
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from tests.helpers.generators import write_reidentification


def test_features_are_those_of_the_published_network_frame_by_frame(tmp_path: Path) -> None:
    folder = write_reidentification(tmp_path)
    encoder = load_reidentification(str(folder), "cpu")
    frames = np.random.default_rng(0).integers(0, 255, (3, 56, 56), np.uint8)
    found = encoder.encode(frames)
    assert found.shape == (3, 128)

    vae = import_diffusers().AutoencoderKL.from_pretrained(folder / "vae").eval()
    network = import_torchvision().models.resnet50(weights=None)
    network.conv1, network.fc = torch.nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False), torch.nn.Linear(2048, 128)
    state = torch.load(folder / "reidentification_dynamic" / "reidentification_dynamic_best_network.pth")
    network.load_state_dict({key[6:]: value for key, value in state.items() if key.startswith("model.")})
    network.eval()
    with torch.no_grad():
        picture = (torch.from_numpy(frames[1:2]).float() / 128 - 1)[:, None].repeat(1, 3, 1, 1)
        latent = vae.encode(picture).latent_dist.mean * vae.config.scaling_factor
        latent = (latent - latent.min()) / (latent.max() - latent.min()) * 2 - 1
        expected = torch.sigmoid(network(latent))[0].numpy()
    assert np.allclose(found[1], expected, atol=1e-4)
    assert np.allclose(encoder.encode(frames[1:2])[0], found[1], atol=1e-5)  # whatever stands beside it
    assert encoder.encode(frames[:, ::2, ::2]).shape == (3, 128)

    place = folder / "reidentification_dynamic" / "config.json"
    place.write_text(json.dumps({"siamese_architecture": "Guess", "n_channels": 4, "n_features": 128}))
    with pytest.raises(InputError, match=r"privacy.weights: .* got 'Guess', 4, 128"):
        load_reidentification(str(folder), "cpu")


def test_correlations_are_numpys() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random((3, 8)), rng.random((2, 8))
    expected = np.corrcoef(np.concatenate([one, other]))[:3, 3:]
    assert np.allclose(correlations(one, other), expected)
    assert correlations(one, one).diagonal() == pytest.approx(1)
