"""Tiny generators in the published formats, written by diffusers itself. Weights are random."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from echodfkd.models.generators.latent_networks import FrameVAE, LatentSpec, VelocityNet
from echodfkd.models.generators.latent_video import LatentModel, write_latent_model
from echodfkd.models.generators.map_painter import MapPainter
from echodfkd.models.generators.painted import write_painter
from echodfkd.models.generators.stdit import SpaceTimeTransformer
from echodfkd.models.generators.video_unet import VideoUNet
from echodfkd.models.generators.weight_files import import_diffusers
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.models.teachers.unet import EmbeddedTeacherNet

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
        down_block_types=["AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"],
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
        "block_out_channels": [32, 64, 64, 64],  # its norms have 32 groups: one channel in each would hide the time
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


STDIT = {
    "input_size": [4, 8, 8],
    "in_channels": 8,
    "out_channels": 4,
    "patch_size": [1, 2, 2],
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "class_dropout_prob": 0.1,
    "caption_channels": 1,
    "model_max_length": 1,
}


def randomise(network: torch.nn.Module) -> torch.nn.Module:
    """The network with random numbers in every weight, also in those that begin at zero."""
    for values in network.state_dict().values():
        values.copy_(torch.randn(values.shape) * 0.2)
    return network


def write_network(folder: Path, class_name: str, settings: dict[str, Any], network: torch.nn.Module) -> None:
    """config.json and diffusion_pytorch_model.safetensors, as diffusers saves a class of the authors' own."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"_class_name": class_name, "_diffusers_version": "0.30.3"} | settings)
    )
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def write_echoflow(folder: Path, seed: int = 0) -> Path:
    """The authors' folders: an autoencoder of two halvings (f4), a frame network, a video network, statistics."""
    torch.manual_seed(seed)
    tiny_autoencoder(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 8, 8],
        scaling_factor=0.108,
    ).save_pretrained(folder / "vae" / "avae-4f4")
    settings = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 5, "out_channels": 4, "num_layers": 2}
    settings |= {"sample_size": 8, "num_embeds_ada_norm": 3}
    frames = randomise(import_diffusers().DiTTransformer2DModel(**settings))
    write_network(folder / "lifm" / "tiny-4f4", "SegDiTTransformer2DModel", settings, frames)
    write_network(folder / "lvfm" / "tiny-4f4", "DiffuserSTDiT", STDIT, randomise(SpaceTimeTransformer(**STDIT)))
    torch.save(
        {"mean": torch.tensor([0.1, -0.2, 0.3, 0.0]), "std": torch.tensor([2.0, 3.0, 4.0, 5.0])}, folder / "scaling.pt"
    )
    return folder


def write_echolvfm(folder: Path, flow: str, seed: int = 0) -> Path:
    """EchoFlow's folders, and one of the authors' with their ``UNet3D`` inside a flow."""
    write_echoflow(folder, seed)
    part = folder / ("linear" if flow == "linear" else "echolvfm_h2")
    part.mkdir()
    kwargs = {
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 2,
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
        "block_out_channels": [32, 64],  # its norms have 32 groups: one channel in each would hide the time
        "num_attention_heads": [2, 2],
        "cross_attention_dim": 1,
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 2],
    }
    sizes = {"sample_size": 8, "in_channels": 9, "out_channels": 4, "num_frames": 6}
    added = {"addition_time_embed_dim": 32, "projection_class_embeddings_input_dim": 32}
    network = randomise(import_diffusers().UNetSpatioTemporalConditionModel(**sizes, **kwargs, **added))
    names = {key: "model." + key.replace("add_embedding.", "cond_t_embedding.") for key in network.state_dict()}
    save_file(
        {names[key]: value.contiguous() for key, value in network.state_dict().items()}, part / "model.safetensors"
    )
    config = {"model": {"type": "unet", "init": sizes, "kwargs": kwargs}, "flow": {"type": flow, "kwargs": {}}}
    (part / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(
        {"mean": torch.tensor([0.0, 1.0, 0.0, 1.0]), "std": torch.tensor([1.0, 2.0, 1.0, 2.0])},
        folder / "CAMUS_Scaling_4f4.pt",
    )
    return folder


def write_free_echo(folder: Path, name: str = "echonet", seed: int = 0) -> Path:
    """The authors' file, a network inside its diffusion under "ema", and a reference frame: a grey sector."""
    torch.manual_seed(seed)
    (folder / "weights").mkdir(parents=True)
    (folder / "images").mkdir()
    network = randomise(VideoUNet(16))
    state = {f"denoise_fn.{key}": value for key, value in network.state_dict().items()}
    torch.save({"step": 100_000, "model": state, "ema": state, "scaler": {}}, folder / "weights" / f"{name}_model.pt")
    rows, columns = np.mgrid[:64, :64]
    sector = np.abs(columns - 32) < 4 + rows / 2.4
    frame = np.where(sector, 20 + 3 * rows, 0).astype(np.uint8)
    Image.fromarray(frame).save(folder / "images" / f"{name}.png")
    return folder


def write_batch_norm_teacher(path: Path, seed: int = 0) -> Path:
    """An embedded teacher with batch normalisation that has seen noise of its own."""
    torch.manual_seed(seed)
    network = EmbeddedTeacherNet(channels=(8, 8), batch_norm=True).train()
    network(torch.randn(16, 1, 32, 32))
    save_file(network.state_dict(), path)
    return path


def write_tiny_painter(path: Path, seed: int = 0) -> Path:
    """A painter's file."""
    torch.manual_seed(seed)
    write_painter(path, MapPainter())
    return path


STILL_SIDE = 8
"""Of a latent; the image is eight times as large."""


def write_tiny_latent_video(path: Path) -> Path:
    """A latent_video of frames of 32 x 32 with random weights."""
    torch.manual_seed(3)
    spec = LatentSpec(size=32, frames=4, vae_width=8, width=16, depth=1, heads=2)
    vae, flow = (randomise(network(spec)) for network in (FrameVAE, VelocityNet))
    write_latent_model(path, LatentModel(spec, vae, flow, torch.zeros(4), torch.ones(4)))  # type: ignore[arg-type]
    return path


def write_diffecho(folder: Path, *, control: bool, seed: int = 0) -> Path:
    """Folders of Stable Diffusion, saved by diffusers and transformers, and a ControlNet."""
    transformers = importlib.import_module("transformers")
    diffusers = import_diffusers()
    torch.manual_seed(seed)
    tiny_autoencoder(sample_size=8 * STILL_SIDE).save_pretrained(folder / "vae")
    shared: dict[str, Any] = {"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}
    shared |= {"cross_attention_dim": 16, "attention_head_dim": 2}
    shared |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    blocks = {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "sample_size": STILL_SIDE}
    diffusers.UNet2DConditionModel(**shared, **blocks).save_pretrained(folder / "unet")
    if control:
        network = diffusers.ControlNetModel(**shared, conditioning_embedding_out_channels=[4, 4, 4, 8])
        randomise(network).save_pretrained(folder / "controlnet")
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    diffusers.PNDMScheduler(**schedule, skip_prk_steps=True).save_pretrained(folder / "scheduler")
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), ".</w>", "-</w>", "he", "art</w>", "ar"]
    vocab = {word: place for place, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocab))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\nh e\na r\nar t</w>\n")
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    encoder = transformers.CLIPTextModel(config)
    (folder / "text_encoder").mkdir()
    names = {key: f"text_model.{key}" for key in encoder.state_dict()}
    tensors = {names[key]: value.contiguous() for key, value in encoder.state_dict().items()}
    save_file(tensors, folder / "text_encoder" / "model.safetensors")
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    card = {name: getattr(config, name) for name in sizes} | {"model_type": "clip_text_model", "torch_dtype": "float32"}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(card))
    return folder


def write_reidentification(folder: Path, seed: int = 0) -> Path:
    """The authors' folder: a ResNet-50 on latents under "model", saved as its plain state."""
    torch.manual_seed(seed)
    part = folder / "reidentification_dynamic"
    part.mkdir(parents=True)
    network = import_torchvision().models.resnet50(weights=None)
    network.conv1 = torch.nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False)
    network.fc = torch.nn.Linear(2048, 128)
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    state |= {"fc_end.weight": torch.zeros(1, 128), "fc_end.bias": torch.zeros(1)}
    torch.save(state, part / "reidentification_dynamic_best_network.pth")
    (part / "config.json").write_text(
        json.dumps({"siamese_architecture": "ResNet-50", "n_channels": 4, "n_features": 128, "image_size": 14})
    )
    tiny_autoencoder().save_pretrained(folder / "vae")
    return folder
