"""The DeepSpeed engine, ZeRO stages 0 to 3: the only file that imports deepspeed.

DeepSpeed does the update, the sharding and the exchange of gradients. Checkpoints are ours, because its own are pickles
and do not load at another number of workers: full fp32 weights and moments are gathered by name, and put back into the
shards of the next run (`_set_moments`).
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import nn

from echodfkd.storage.checkpoints import OptimizerState, copy_to_cpu
from echodfkd.training.collectives import ensure_group, num_workers
from echodfkd.training.engine import EngineSettings, PrecisionModule, is_fused, step_count

_MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedEngine:
    """See `Engine`."""

    def __init__(self, module: nn.Module, settings: EngineSettings, state: OptimizerState | None) -> None:
        device, train = settings.device, settings.train
        deepspeed = _import_deepspeed(device)
        ensure_group(device)
        self.module = module
        self.workers = num_workers()
        self._stage = train.zero_stage
        self._named = dict(module.named_parameters())
        self._engine, _, _, _ = deepspeed.initialize(
            model=PrecisionModule(module, precision=train.precision, device=device),
            model_parameters=list(self._named.values()),
            config=_deepspeed_config(settings),
        )
        if state is not None and state.step > 0:
            self._set_moments(state)
        self._engine.train()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """See `Engine.forward`."""
        return self._engine(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """See `Engine.backward`."""
        # scale_wrt_gas would divide by the accumulation rounds, but the loss is a share of the whole step's already.
        self._engine.backward(loss, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # between rounds this only counts the round: no update, no clipping

    def average_gradients(self) -> torch.Tensor | None:
        """See `Engine.average_gradients`."""
        if self._stage > 0:  # gradients lie in shards, whose norm DeepSpeed sums in its own step
            return None
        # DeepSpeed has averaged them already, in the backward pass of the last round.
        return torch.nn.utils.get_total_norm([p.grad for p in self._named.values() if p.grad is not None])

    def step(self, learning_rate: float) -> float | None:
        """See `Engine.step`."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm()) if self._stage > 0 else None  # stage 0 does not keep it

    def zero_grad(self) -> None:
        """See `Engine.zero_grad`."""
        self._engine.zero_grad()
        if self._stage > 0:  # stages 2 and 3 keep shards of the gradients inside DeepSpeed
            self._engine.optimizer.zero_grad()

    def weights(self) -> dict[str, torch.Tensor]:
        """See `Engine.weights`."""
        from deepspeed.utils import safe_get_full_fp32_param

        weights = {}
        for name, tensor in self.module.state_dict().items():
            if self._stage == 3 and name in self._named:  # here the tensor is empty: gather its shards
                tensor = safe_get_full_fp32_param(self._named[name])
            weights[name] = copy_to_cpu(tensor)
        return weights

    def optimizer_state(self) -> OptimizerState:
        """See `Engine.optimizer_state`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        step = self._steps_taken()
        moments: dict[str, dict[str, torch.Tensor]] = {key: {} for key in _MOMENTS}
        for key in _MOMENTS:
            for name, parameter in self._named.items():
                if step == 0:  # Adam has made no moments yet; stage 3 keeps the full shape in ds_shape
                    shape = getattr(parameter, "ds_shape", parameter.shape)
                    moments[key][name] = torch.zeros(shape)
                elif self._stage == 0:
                    moments[key][name] = copy_to_cpu(self._adam.state[parameter][key])
                else:
                    moments[key][name] = copy_to_cpu(safe_get_full_optimizer_state(parameter, key))
        return OptimizerState(step, **moments)

    @property
    def _adam(self) -> Any:
        """The innermost optimiser: ZeRO wraps it around flat shards of the parameters."""
        return getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)

    def _steps_taken(self) -> int:
        # Not the engine's own count, which begins at 0 after a resume.
        steps = [int(own["step"]) for own in self._adam.state.values() if "step" in own]
        return max(steps, default=0)

    def _set_moments(self, state: OptimizerState) -> None:
        """Create Adam's state with the moments of a checkpoint.

        Adam itself creates its state in the first `step`. A dummy pass and step would do that too, but would change the
        running statistics of BatchNorm.
        """
        if self._stage == 3:  # its shards are in Adam's groups only during a step
            shards = self._engine.optimizer.fp32_partitioned_groups_flat
        else:
            shards = [shard for group in self._adam.param_groups for shard in group["params"]]
        is_torch = isinstance(self._adam, torch.optim.Adam)  # counts steps in a tensor, DeepSpeed's kernel in an int
        for shard in shards:
            own = {key: torch.zeros_like(shard) for key in _MOMENTS}
            self._adam.state[shard] = {"step": step_count(state.step, shard.device) if is_torch else state.step, **own}
        if self._stage in (1, 2):  # links each parameter to its slices of the shards' state
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        for key in _MOMENTS:
            for name, parameter in self._named.items():
                self._set_moment(parameter, key, getattr(state, key)[name])

    def _set_moment(self, parameter: Any, key: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        value = value.to(parameter.device)
        if self._stage == 0:
            self._adam.state[parameter][key].copy_(value)
        elif self._stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
        else:
            # safe_set_full_optimizer_state fails if the size is no multiple of the number of workers: its split runs
            # over the end. The last shard is padded with zeros here.
            size = parameter.ds_tensor.numel()
            rank = torch.distributed.get_rank()
            local = torch.zeros(size, dtype=value.dtype, device=value.device)
            own = value.flatten()[size * rank : size * (rank + 1)]
            local[: own.numel()] = own
            safe_set_local_optimizer_state(parameter, local, key)


def _deepspeed_config(settings: EngineSettings) -> dict[str, Any]:
    adam, train = settings.optimizer, settings.train
    optimizer = {
        "lr": 0.0,  # `step` sets it
        "betas": [adam.beta1, adam.beta2],
        "eps": adam.eps,
        "weight_decay": adam.weight_decay,
        "adam_w_mode": adam.kind == "adamw",
        "torch_adam": train.torch_adam,
    }
    if train.torch_adam:
        optimizer["fused"] = is_fused(settings.device)
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": adam.clip_norm,
        "optimizer": {"type": "Adam", "params": optimizer},
        # All gradients of a student fit one bucket: there is nothing to overlap with.
        "zero_optimization": {"stage": train.zero_stage, "overlap_comm": False},
        "steps_per_print": 1_000_000_000,  # silent
    }


def _import_deepspeed(device: torch.device) -> Any:
    """Import deepspeed; on a CPU, so that it neither looks for a GPU nor compiles a kernel."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # initialize asks for it; Ray Train sets it, a single process has none
    import deepspeed

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.WARNING)
    return deepspeed
