"""The engine of plain torch: Adam, and one flattened all-reduce of the gradients per step."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from echodfkd.storage.checkpoints import OptimizerState, copy_to_cpu
from echodfkd.training.collectives import num_workers
from echodfkd.training.engine import EngineSettings, PrecisionModule, is_fused, step_count


class PlainEngine:
    """See `Engine`. Every worker holds the whole student and takes the same step."""

    def __init__(self, module: nn.Module, settings: EngineSettings, state: OptimizerState | None) -> None:
        adam, device = settings.optimizer, settings.device
        self.module = module
        self.workers = num_workers()
        self._forward = PrecisionModule(module, precision=settings.train.precision, device=device)
        self._clip_norm = adam.clip_norm
        self._named = dict(module.named_parameters())
        self._adam = (torch.optim.AdamW if adam.kind == "adamw" else torch.optim.Adam)(
            self._named.values(),
            lr=0.0,
            betas=(adam.beta1, adam.beta2),
            eps=adam.eps,
            weight_decay=adam.weight_decay,
            fused=is_fused(device),
        )
        if state is not None:
            for name, parameter in self._named.items():
                self._adam.state[parameter] = {
                    "step": step_count(state.step, device),
                    "exp_avg": state.exp_avg[name].to(parameter.device, copy=True),
                    "exp_avg_sq": state.exp_avg_sq[name].to(parameter.device, copy=True),
                }
        module.train()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """See `Engine.forward`."""
        return self._forward(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """See `Engine.backward`."""
        loss.backward()

    def average_gradients(self) -> torch.Tensor:
        """See `Engine.average_gradients`."""
        for parameter in self._named.values():
            if parameter.grad is None:  # no output depends on it, but all workers must send the same
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._named.values() if parameter.grad is not None]
        if self.workers > 1:
            flat = _flatten_dense_tensors(gradients)
            dist.all_reduce(flat)
            flat /= self.workers
            for gradient, mean in zip(gradients, _unflatten_dense_tensors(flat, gradients), strict=True):
                gradient.copy_(mean)
        self._norm = torch.nn.utils.get_total_norm(gradients)
        return self._norm

    def step(self, learning_rate: float) -> None:
        """See `Engine.step`."""
        if self._clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self._named.values(), self._clip_norm, self._norm)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """See `Engine.zero_grad`."""
        self._adam.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, torch.Tensor]:
        """See `Engine.weights`."""
        return {name: copy_to_cpu(tensor) for name, tensor in self.module.state_dict().items()}

    def optimizer_state(self) -> OptimizerState:
        """See `Engine.optimizer_state`."""
        step, exp_avg, exp_avg_sq = 0, {}, {}
        for name, parameter in self._named.items():
            own = self._adam.state.get(parameter)
            step = int(own["step"]) if own else 0
            exp_avg[name] = copy_to_cpu(own["exp_avg"] if own else torch.zeros_like(parameter))
            exp_avg_sq[name] = copy_to_cpu(own["exp_avg_sq"] if own else torch.zeros_like(parameter))
        return OptimizerState(step, exp_avg, exp_avg_sq)
