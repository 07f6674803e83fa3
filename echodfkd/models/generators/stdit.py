"""EchoFlow's video network: a transformer over patches that attends within a frame, then along time.

Written from the published description, under the published names of weights (``DiffuserSTDiT``); one number, the
ejection fraction, is its caption.

Legend: B clips, C channels, T frames, h rows and w columns of a latent, N patches of a clip, S patches of a frame, D
width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class SpaceTimeTransformer(nn.Module):
    """Noisy video and its condition (B, C, T, h, w), time (B,) and caption (B, 1, K) -> velocity (B, C', T, h, w).

    Arguments are those of the published config.json; those that only matter in training are taken and not used.
    """

    def __init__(
        self,
        *,
        input_size: Sequence[int],
        in_channels: int,
        out_channels: int,
        patch_size: Sequence[int],
        hidden_size: int,
        depth: int,
        num_heads: int,
        caption_channels: int,
        model_max_length: int,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        drop_path: float = 0.0,
        no_temporal_pos_emb: bool = False,
        space_scale: float = 1.0,
        time_scale: float = 1.0,
        enable_flashattn: bool = False,
    ) -> None:
        super().__init__()
        if len(input_size) != 3 or any(whole % part for whole, part in zip(input_size, patch_size, strict=True)):
            raise ValueError(f"patches of {list(patch_size)} do not divide a latent of {list(input_size)}")
        if caption_channels < 1 or hidden_size % num_heads:
            raise ValueError(f"caption_channels {caption_channels}, hidden_size {hidden_size}, num_heads {num_heads}")
        self.config = SimpleNamespace(
            input_size=tuple(input_size), in_channels=in_channels, out_channels=out_channels, caption=caption_channels
        )
        model: Any = nn.Module()
        self._patch: tuple[int, int, int] = (patch_size[0], patch_size[1], patch_size[2])
        self._grid = tuple(whole // part for whole, part in zip(input_size, patch_size, strict=True))
        T, S = self._grid[0], self._grid[1] * self._grid[2]
        model.register_buffer("pos_embed", torch.zeros(1, S, hidden_size))
        model.register_buffer("pos_embed_temporal", torch.zeros(1, T, hidden_size))
        model.x_embedder = nn.Module()
        model.x_embedder.proj = nn.Conv3d(in_channels, hidden_size, self._patch, stride=self._patch)
        model.t_embedder = nn.Module()
        model.t_embedder.mlp = nn.Sequential(
            nn.Linear(_FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        model.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        model.y_embedder = nn.Module()
        model.y_embedder.y_proj = _Mlp(caption_channels, hidden_size, hidden_size)
        model.y_embedder.y_embedding = nn.Parameter(torch.zeros(model_max_length, caption_channels))
        hidden = int(hidden_size * mlp_ratio)
        model.blocks = nn.ModuleList(_Block(hidden_size, num_heads, hidden) for _ in range(depth))
        model.final_layer = nn.Module()
        model.final_layer.linear = nn.Linear(hidden_size, math.prod(self._patch) * out_channels)
        model.final_layer.scale_shift_table = nn.Parameter(torch.zeros(2, hidden_size))
        self.model: Any = model

    def forward(self, x_BCThw: torch.Tensor, time_B: torch.Tensor, caption_B1K: torch.Tensor) -> torch.Tensor:
        """The velocity (B, C', T, h, w)."""
        model, (T, _, _) = self.model, self._grid
        x = model.x_embedder.proj(x_BCThw).flatten(3).permute(0, 2, 3, 1)  # (B, T, S, D)
        x = x + model.pos_embed[:, None]
        time = model.t_embedder.mlp(_waves(time_B).to(x.dtype))
        modulation = model.t_block(time).unflatten(1, (6, -1))
        caption = model.y_embedder.y_proj(caption_B1K.to(x.dtype))
        for place, block in enumerate(model.blocks):
            x = block(x, modulation, caption, model.pos_embed_temporal if place == 0 else None)
        last = model.final_layer
        shift, scale = (last.scale_shift_table[None] + time[:, None]).chunk(2, dim=1)
        x = last.linear(_modulate(_norm(x), shift[:, None], scale[:, None]))
        rows, columns = self._grid[1:]
        x = x.view(len(x), T, rows, columns, *self._patch, -1)  # (B, T, rows, columns, pt, ph, pw, C')
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = _Attention(width, heads)
        self.attn_temp = _Attention(width, heads)
        self.cross_attn = _CrossAttention(width, heads)
        self.mlp = _Mlp(width, hidden, width)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, width))

    def forward(
        self, x: torch.Tensor, modulation: torch.Tensor, caption: torch.Tensor, places: torch.Tensor | None
    ) -> torch.Tensor:
        B, T, S, D = x.shape
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (self.scale_shift_table + modulation)[
            :, :, None, None
        ].unbind(1)
        within = self.attn(_modulate(_norm(x), shift, scale).flatten(0, 1)).view(B, T, S, D)
        x = x + gate * within
        along = x.transpose(1, 2).flatten(0, 1)  # (B S, T, D)
        along = self.attn_temp(along if places is None else along + places)
        x = x + gate * along.view(B, S, T, D).transpose(1, 2)
        x = x + self.cross_attn(x.flatten(1, 2), caption).view(B, T, S, D)
        return x + gate_mlp * self.mlp(_modulate(_norm(x), shift_mlp, scale_mlp))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
        q = self.q_linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv_linear(caption).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, before: int, hidden: int, after: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(before, hidden)
        self.fc2 = nn.Linear(hidden, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


_FREQUENCIES = 256


def _waves(time_B: torch.Tensor) -> torch.Tensor:
    """Cosines and sines of a time (B, 256), of wavelengths 2 pi .. 20,000 pi."""
    half = _FREQUENCIES // 2
    rates = torch.exp(-math.log(10_000) / half * torch.arange(half, device=time_B.device))
    angles = time_B.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x * (1 + scale) + shift
