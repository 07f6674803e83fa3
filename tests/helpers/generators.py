"""Tiny generators in the published formats, written by diffusers itself. Weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from echodfkd.models.generators.weight_files import import_diffusers

LATENT_SIDE, WINDOW = 7, 4
NOISE_YAML = """
globals:
    target_fps: 32
noise_scheduler:
    _class_name: DDPMScheduler
    num_train_timesteps: 1000
    beta_start: 0.0001
    beta_end: 0.02
    beta_schedule: linear
    variance_type: fixed_small
    clip_sample: true
    clip_sample_range: 4.0
    prediction_type: v_prediction
    thresholding: false
    timestep_spacing: "leading"
    steps_offset: 0
"""


def tiny_autoencoder(**changes: Any) -> Any:
    """``AutoencoderKL`` of the published structure (three halvings, 4 latent channels) with few channels."""
    settings: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [8, 8, 8, 8],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 8 * LATENT_SIDE,
        "scaling_factor": 0.18215,
    }
    return import_diffusers().AutoencoderKL(**settings | changes)


def tiny_frame_network() -> Any:
    """``UNet2DModel`` of the published block types."""
    return import_diffusers().UNet2DModel(
        sample_size=LATENT_SIDE,
        in_channels=4,
        out_channels=4,
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[8, 8, 8, 8],
        layers_per_block=1,
        downsample_type="resnet",
        upsample_type="resnet",
        norm_num_groups=4,
    )


def tiny_video_network(in_channels: int = 8, **changes: Any) -> Any:
    """``UNetSpatioTemporalConditionModel`` of the published block types."""
    settings: dict[str, Any] = {
        "sample_size": LATENT_SIDE,
        "in_channels": in_channels,
        "out_channels": 4,
        "block_out_channels": [32, 32, 32, 32],
        "layers_per_block": 1,
        "cross_attention_dim": 1,
        "addition_time_embed_dim": 1,
        "projection_class_embeddings_input_dim": 1,
        "num_attention_heads": [2, 2, 2, 2],
        "num_frames": WINDOW,
    }
    return import_diffusers().UNetSpatioTemporalConditionModel(**settings | changes)


def write_echonet_synthetic(folder: Path, seed: int = 0) -> Path:
    """The authors' three folders."""
    torch.manual_seed(seed)
    tiny_autoencoder().save_pretrained(folder / "vae")
    for name, network in (("lidm_dynamic", tiny_frame_network()), ("lvdm", tiny_video_network())):
        network.save_pretrained(folder / name)
        (folder / name / "config.yaml").write_text(NOISE_YAML)
    return folder
