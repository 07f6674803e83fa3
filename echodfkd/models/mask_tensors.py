"""`mask_codes` for tensors, on the device that they are on."""

from __future__ import annotations

import torch

from echodfkd.core.mask_codes import LEAST_PROB, LOGIT, LOGIT_STEPS, MASK_CODES, PROBABILITY


def encode_tensor(prob: torch.Tensor, code: str) -> torch.Tensor:
    """`mask_codes.encode` on the device that the probabilities are on: a quarter of the bytes leaves it.

    Values that are not finite get an arbitrary code.
    """
    if code == PROBABILITY:
        return (prob.float() * 255.0).round_().to(torch.uint8)
    least = LEAST_PROB[MASK_CODES[LOGIT]]
    held = prob.double().clamp(least, 1 - least)  # float64: 1 - p of float32 is coarse near 1
    return (LOGIT_STEPS * torch.log(held / (1 - held))).round_().to(torch.int8)


def decode_tensor(codes: torch.Tensor) -> torch.Tensor:
    """`mask_codes.decode` on the device that the codes are on."""
    if codes.dtype == torch.uint8:
        return codes.float() / 255.0
    assert codes.dtype == torch.int8, f"masks are uint8 or int8, got {codes.dtype}"
    return torch.sigmoid(codes.float() / LOGIT_STEPS)
