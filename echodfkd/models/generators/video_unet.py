"""Free-Echo's network: a U-Net over frames, with attention within frames and along time.

Written from the published description, under the published names of weights (a descendant of Ho et al., "Video
Diffusion Models", 2022).

Legend: B clips, C channels, T frames, H rows, W columns, D width, N elements that attend to one another.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = (1, 2, 4)
"""Widths of the levels, in units of the first."""
CHANNELS, MAP_CLASSES = 3, 5
HEADS, HEAD_WIDTH, GROUPS = 8, 32, 8
_BUCKETS, _MAX_DISTANCE = 32, 32


class VideoUNet(nn.Module):
    """Noisy frames (B, 3, T, H, W), log noise (B,) and class maps (B, H, W) int64 -> (B, 3, T, H, W).

    Args:
        width: of the first level; 32 as published.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        moment = 4 * width
        self.time_rel_pos_bias = nn.Module()
        self.time_rel_pos_bias.relative_attention_bias = nn.Embedding(_BUCKETS, HEADS)
        self.init_conv = nn.Conv3d(CHANNELS + MAP_CLASSES, width, (1, 7, 7), padding=(0, 3, 3))
        self.init_temporal_attn = _along_time(width, HEADS)
        self.time_mlp = nn.Sequential(nn.Identity(), nn.Linear(width, moment), nn.GELU(), nn.Linear(moment, moment))
        self.semantic_map_embedding = nn.Module()  # in the file, but not in any output
        self.semantic_map_embedding.init_conv = nn.Conv3d(MAP_CLASSES, 64, 1)
        self.semantic_map_embedding.init_temporal_attn = _along_time(64, 4)
        widths = [width, *(width * times for times in WIDTHS)]
        steps = list(itertools.pairwise(widths))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (before, after) in enumerate(steps):
            down = nn.Conv3d(after, after, (1, 4, 4), (1, 2, 2), (0, 1, 1))
            last = level == len(steps) - 1
            self.downs.append(_level(before, after, moment, nn.Identity() if last else down))
        self.mid_block1 = _Residual(widths[-1], widths[-1], moment)
        self.mid_spatial_attn = _Around(widths[-1], _Attention(widths[-1], HEADS, along="space"))
        self.mid_temporal_attn = _along_time(widths[-1], HEADS)
        self.mid_block2 = _Residual(widths[-1], widths[-1], moment)
        for level, (before, after) in enumerate(reversed(steps)):
            up = nn.ConvTranspose3d(before, before, (1, 4, 4), (1, 2, 2), (0, 1, 1))
            last = level == len(steps) - 1
            self.ups.append(_level(2 * after, before, moment, nn.Identity() if last else up))
        self.final_conv = nn.Sequential(_Residual(2 * width, width, None), nn.Conv3d(width, CHANNELS, 1))

    def forward(self, x: torch.Tensor, log_noise_B: torch.Tensor, map_BHW: torch.Tensor) -> torch.Tensor:
        """The network's answer, before preconditioning (`echodfkd.models.generators.free_echo`)."""
        classes = F.one_hot(map_BHW, MAP_CLASSES).permute(0, 3, 1, 2)[:, :, None].to(x.dtype)
        bias = self._time_bias(x.shape[2], x.device)
        x = self.init_conv(torch.cat([x, classes.expand(-1, -1, x.shape[2], -1, -1)], dim=1))
        x = first = self.init_temporal_attn(x, bias)
        moment = self.time_mlp(_waves(log_noise_B, len(self.init_conv.weight)).to(x.dtype))
        kept = []
        downs: Any = self.downs
        ups: Any = self.ups
        for one, two, space, time, down in downs:
            x = time(space(two(one(x, moment), moment)), bias)
            kept.append(x)
            x = down(x)
        x = self.mid_temporal_attn(self.mid_spatial_attn(self.mid_block1(x, moment)), bias)
        x = self.mid_block2(x, moment)
        for one, two, space, time, up in ups:
            x = torch.cat([x, kept.pop()], dim=1)
            x = up(time(space(two(one(x, moment), moment)), bias))
        return self.final_conv[1](self.final_conv[0](torch.cat([x, first], dim=1), None))

    def _time_bias(self, T: int, device: torch.device) -> torch.Tensor:
        """What attention along time adds for a distance, (heads, T, T): exact for near frames, by logarithm beyond."""
        place = torch.arange(T, device=device)
        behind = place[:, None] - place[None, :]  # query minus key
        half = _BUCKETS // 2
        exact = half // 2
        distance = behind.abs()
        far = (
            exact
            + (
                torch.log(distance.clamp(min=1).float() / exact) / math.log(_MAX_DISTANCE / exact) * (half - exact)
            ).long()
        )
        bucket = torch.where(distance < exact, distance, far.clamp(max=half - 1)) + half * (behind < 0).long()
        table: Any = self.time_rel_pos_bias
        return table.relative_attention_bias(bucket).permute(2, 0, 1)


def _level(before: int, after: int, moment: int, resize: nn.Module) -> nn.ModuleList:
    blocks = [_Residual(before, after, moment), _Residual(after, after, moment)]
    attention = [_Around(after, _LinearAttention(after)), _along_time(after, HEADS)]
    return nn.ModuleList([*blocks, *attention, resize])


def _along_time(width: int, heads: int) -> nn.Module:
    return _Around(width, _Attention(width, heads, along="time"))


def _waves(values_B: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines (B, D) of a number, of wavelengths 2 pi .. 20,000 pi."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=values_B.device) * (-math.log(10_000) / (half - 1)))
    angles = values_B.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, width, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * self.gamma


class _Around(nn.Module):
    """A layer behind a norm, added to its input."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.fn = nn.Module()
        self.fn.norm = _Norm(width)
        self.fn.fn = layer if isinstance(layer, _LinearAttention) else nn.Module()
        if layer is not self.fn.fn:
            self.fn.fn.fn = layer  # the published names have one level more around full attention

    def forward(self, x: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
        around: Any = self.fn
        layer = around.fn if isinstance(around.fn, _LinearAttention) else around.fn.fn
        return x + layer(around.norm(x), *bias)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, moment: int | None) -> None:
        super().__init__()
        self.mlp = None if moment is None else nn.Sequential(nn.SiLU(), nn.Linear(moment, 2 * after))
        self.block1, self.block2 = _block(before, after), _block(after, after)
        self.res_conv = nn.Identity() if before == after else nn.Conv3d(before, after, 1)

    def forward(self, x: torch.Tensor, moment: torch.Tensor | None) -> torch.Tensor:
        first: Any = self.block1
        second: Any = self.block2
        h = first.norm(first.proj(x))
        if self.mlp is not None:
            scale, shift = self.mlp(moment)[:, :, None, None, None].chunk(2, dim=1)
            h = h * (scale + 1) + shift
        h = F.silu(second.norm(second.proj(F.silu(h))))
        return h + self.res_conv(x)


def _block(before: int, after: int) -> nn.Module:
    block = nn.Module()
    block.proj = nn.Conv3d(before, after, (1, 3, 3), padding=(0, 1, 1))
    block.norm = nn.GroupNorm(GROUPS, after)
    return block


class _LinearAttention(nn.Module):
    """Attention within a frame at a cost linear in its pixels: keys are softmaxed over pixels, queries over width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(width, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.to_out = nn.Conv2d(HEADS * HEAD_WIDTH, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, _, T, H, W = x.shape
        frames = x.transpose(1, 2).flatten(0, 1)
        q, k, v = self.to_qkv(frames).unflatten(1, (3, HEADS, HEAD_WIDTH)).flatten(-2).unbind(1)  # (B T, heads, d, N)
        context = k.softmax(dim=-1) @ v.transpose(-1, -2)
        out = context.transpose(-1, -2) @ (q.softmax(dim=-2) * HEAD_WIDTH**-0.5)
        return self.to_out(out.flatten(1, 2).unflatten(-1, (H, W))).unflatten(0, (B, T)).transpose(1, 2)


class _Attention(nn.Module):
    """Full attention along time (with rotated positions) or within a frame."""

    def __init__(self, width: int, heads: int, *, along: str) -> None:
        super().__init__()
        self.heads, self._time = heads, along == "time"
        if self._time:
            self.rotary_emb = nn.Module()
            rates = 1 / 10_000 ** (torch.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
            self.rotary_emb.freqs = nn.Parameter(rates, requires_grad=False)
        self.to_qkv = nn.Linear(width, 3 * heads * HEAD_WIDTH, bias=False)
        self.to_out = nn.Linear(heads * HEAD_WIDTH, width, bias=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        B, D, T, H, W = x.shape
        lines = (
            x.permute(0, 3, 4, 2, 1).flatten(0, 2)
            if self._time
            else x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
        )
        q, k, v = self.to_qkv(lines).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (lines, heads, N, d)
        if self._time:
            q, k = self._rotate(q), self._rotate(k)
        mask = None if bias is None else bias.to(q.dtype)[None]  # torch's fast attention takes four dimensions only
        out = self.to_out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        if self._time:
            return out.view(B, H, W, T, D).permute(0, 4, 3, 1, 2)
        return out.view(B, T, H, W, D).permute(0, 4, 1, 2, 3)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Pairs of neighbouring values, as complex numbers, turned by an angle that grows with the frame's number."""
        rotary: Any = self.rotary_emb
        angles = torch.arange(x.shape[-2], device=x.device)[:, None] * rotary.freqs.float()
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(x.dtype)
