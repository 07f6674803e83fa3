"""Samplers of diffusion and flow models: diffusers' schedulers by name, and the loop that calls the network.

Legend: B clips, ``...`` the shape of one clip's latent.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from echodfkd.core.errors import ConfigError, InputError, RunError, one_line
from echodfkd.models.generators.weight_files import import_diffusers

DIFFUSION, FLOW = ("ddpm", "ddim", "dpm_solver", "unipc"), ("flow_euler", "dpm_solver", "unipc")
"""Values of source.generator.scheduler for networks that predict noise, a clean sample or v, and for those that predict
a velocity. The first of each is the published one."""
MAX_TRAIN_STEPS = 10_000

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents (B, ...) and the time, a tensor without dimensions -> the network's output (B, ...)."""


@dataclass(frozen=True)
class Sampling:
    """How a generator is run; the settings of source.generator."""

    device: str = "cpu"
    precision: str = "fp32"
    scheduler: str = ""
    steps: int = 0
    guidance: float = 0.0
    compile: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the networks that denoise; latents and decoder keep float32."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True)
class NoiseSchedule:
    """How a network's training mixed noise in, in the names and with the defaults of diffusers.

    ``prediction_type`` is epsilon, sample, v_prediction or flow: (noise - sample) at (1 - s) * sample + s * noise,
    called with the time s * num_train_timesteps.
    """

    prediction_type: str = "epsilon"
    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    @property
    def flow(self) -> bool:
        """Whether the network predicts a velocity."""
        return self.prediction_type == "flow"


def place_network(network: Any, sampling: Sampling) -> Any:
    """The network on the device and in the number format that it is run in, compiled if it is to be."""
    torch.nn.Module.to(network, device=sampling.device, dtype=sampling.dtype)  # diffusers' own warns of nothing
    return compile_network(network) if sampling.compile else network


def compile_network(network: Any) -> Any:
    """Let torch.compile make kernels of the network with its first passes, in place.

    A network that cannot be compiled raises `RunError` then: torch finds that out with the first pass.
    """
    forward = torch.compile(network.forward)

    def compiled(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise RunError(
                f"source.generator.compile: torch cannot compile the {type(network).__name__} here, it needs a C++"
                f" compiler for a CPU and Triton for a GPU ({one_line(error)}); set source.generator.compile=false"
            ) from error

    network.forward = compiled
    return network


def read_schedule(values: Mapping[str, Any], where: str) -> NoiseSchedule:
    """The schedule in a scheduler's own settings; those of its sampling are left to `build_scheduler`.

    Raises:
        InputError: a setting that changes the training's noise is of another type, out of bounds, or not known here.
    """
    own = NoiseSchedule()
    found = {field.name: values[field.name] for field in fields(own) if field.name in values}
    for name, value in found.items():
        kind = type(getattr(own, name))
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise InputError(f"{where}: {name} is {str(value)[:80]}, expected a {kind.__name__}")
    schedule = NoiseSchedule(**found)
    for name, allowed in (
        ("prediction_type", ("epsilon", "sample", "v_prediction", "flow")),
        ("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2")),
    ):
        if getattr(schedule, name) not in allowed:
            raise InputError(f"{where}: {name} is {getattr(schedule, name)[:80]!r}, allowed are {', '.join(allowed)}")
    if not (0 < schedule.beta_start < schedule.beta_end < 1 and 1 < schedule.num_train_timesteps <= MAX_TRAIN_STEPS):
        raise InputError(
            f"{where}: beta {schedule.beta_start} .. {schedule.beta_end} over {schedule.num_train_timesteps} steps;"
            f" expected 0 < beta_start < beta_end < 1 and at most {MAX_TRAIN_STEPS} steps"
        )
    if unread := [name for name in ("trained_betas", "rescale_betas_zero_snr", "thresholding") if values.get(name)]:
        raise InputError(f"{where}: sets {unread[0]}, which this package does not read")
    return schedule


def build_scheduler(name: str, schedule: NoiseSchedule, steps: int) -> Any:
    """A scheduler of diffusers, with its times set.

    Args:
        name: of `DIFFUSION` or `FLOW`; "" takes the first.
        schedule: of the network.
        steps: calls of the network, at least 1. ddpm spaces them as its authors did (from 0 up); the others begin at
            the last time of the training, which a few steps need.

    Raises:
        ConfigError: no such scheduler for this network, or more steps than times.
    """
    allowed = FLOW if schedule.flow else DIFFUSION
    name = name or allowed[0]
    if name not in allowed:
        raise ConfigError(
            f"source.generator.scheduler: got {name}, this network predicts {schedule.prediction_type}; allowed are"
            f" {', '.join(allowed)}"
        )
    if not 1 <= steps <= schedule.num_train_timesteps:
        raise ConfigError(
            f"source.generator.steps: got {steps}, the network knows {schedule.num_train_timesteps} times"
        )
    diffusers, times = import_diffusers(), schedule.num_train_timesteps
    if name == "flow_euler":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=times)
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
        return scheduler
    settings: dict[str, Any] = {"num_train_timesteps": times}
    if schedule.flow:
        settings |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    else:
        settings |= {
            "prediction_type": schedule.prediction_type,
            "beta_start": schedule.beta_start,
            "beta_end": schedule.beta_end,
            "beta_schedule": schedule.beta_schedule,
            "timestep_spacing": "leading" if name == "ddpm" else "trailing",
        }
    if name in ("ddpm", "ddim"):
        settings |= {"clip_sample": schedule.clip_sample, "clip_sample_range": schedule.clip_sample_range}
    scheduler = getattr(diffusers, _CLASSES[name])(**settings)
    scheduler.set_timesteps(steps)
    return scheduler


_CLASSES = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm_solver": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> torch.Tensor:
    """Standard normal noise (B, *shape): of each clip from its own generator, on the CPU."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators]).to(device)


def denoise(
    scheduler: Any, predict: Predict, latents: torch.Tensor, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Clean latents (B, ...), float32, from noise (B, ...).

    A sampler that adds noise draws it for each clip from that clip's generator.
    """
    takes_noise = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if takes_noise else {}
    for time in scheduler.timesteps.to(latents.device):
        output = predict(scheduler.scale_model_input(latents, time) if _scales(scheduler) else latents, time)
        latents = scheduler.step(output.float(), time, latents, **extra).prev_sample
    return latents


def _scales(scheduler: Any) -> bool:
    return hasattr(scheduler, "scale_model_input")
