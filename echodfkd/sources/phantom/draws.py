"""Random numbers of the phantom: each a hash of the clip's key and a name or a counter, never of a shared stream.

A clip is therefore the same in any batch, and a new parameter does not change the others. The few numbers of a clip
are hashed as Python integers, the noise fields by torch on the device that renders.

Legend: N clips, T frames, H rows, W columns, R and C rows and columns of a texture.
"""

from __future__ import annotations

import functools
import hashlib
import math
import zlib
from collections.abc import Sequence

import torch

_MASK = (1 << 64) - 1


def clip_key(*identity: object) -> int:
    """64-bit key of an identity, e.g. ``clip_key(seed, "clip", index)``; stable over machines and versions."""
    text = "/".join(str(part) for part in identity)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Draws:
    """Named random numbers of N clips, float64 (N,) on the CPU.

    Args:
        keys: one `clip_key` per clip.
    """

    def __init__(self, keys: Sequence[int]) -> None:
        self._keys = tuple(keys)

    def uniform(self, name: str, low: float | torch.Tensor, high: float | torch.Tensor) -> torch.Tensor:
        """Uniform in [low, high); the same name gives the same position between them."""
        share = torch.tensor([share_of(key, name) for key in self._keys], dtype=torch.float64)
        return low + (high - low) * share

    def chance(self, name: str, probability: float | torch.Tensor) -> torch.Tensor:
        """1.0 with this probability, else 0.0."""
        return (self.uniform(name, 0.0, 1.0) < probability).to(torch.float64)

    def counters(self, name: str, device: torch.device) -> torch.Tensor:
        """One int32 per clip (N,) to start `hashed_bits` from."""
        code = _code(name)
        words = [(_mix(key ^ code) & 0xFFFFFFFF) - (1 << 31) for key in self._keys]
        return torch.tensor(words, dtype=torch.int32, device=device)


def share_of(key: int, name: str) -> float:
    """One named number of one clip, uniform in [0, 1): as `Draws.uniform` gives it between 0 and 1."""
    return _mix(key ^ _code(name)) / 2.0**64


@functools.cache
def _code(name: str) -> int:
    return _mix(zlib.crc32(name.encode()) + 0x5851F42D4C957F2D)


def _mix(word: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def scramble(words: torch.Tensor) -> torch.Tensor:
    """Well mixed int32 words of int32 counters (xor, shift, multiply twice); changes ``words`` in place."""
    words ^= words >> 16
    words *= 0x7FEB352D
    words ^= words >> 15
    words *= 0x045D9F3B
    words ^= words >> 16
    return words


def uniform_of(words: torch.Tensor) -> torch.Tensor:
    """Float32 in (0, 1) of int32 words, from 23 of their bits."""
    return (words & 0x7FFFFF).to(torch.float32).add_(0.5).mul_(1.0 / 0x800000)


def gaussian_texture(start_N: torch.Tensor, rows: int, columns: int, sigma: float) -> torch.Tensor:
    """Complex Gaussian field with Gaussian correlation, as real and imaginary part, float32 (N, 2, R, C).

    Each part has variance 1/2, so that the squared amplitude has mean 1 and, by definition, the amplitude is
    Rayleigh distributed (Goodman, Speckle Phenomena in Optics, 2007). White noise by Box and Muller, blurred by a
    Gaussian of ``sigma`` texels in both directions, periodically.

    Args:
        start_N: int32 (N,), one counter per clip (`Draws.counters`).
        rows: R, along the beam.
        columns: C, across the beams.
        sigma: standard deviation of the blur in texels.
    """
    place = torch.arange(rows * columns, dtype=torch.int32, device=start_N.device)
    first = scramble(place * 0x1E3779B1 + start_N[:, None])
    second = scramble(first + 0x3243F6A9)
    radius = uniform_of(first).log_().neg_().sqrt_()
    turn = uniform_of(second).mul_(2.0 * math.pi)
    field = torch.stack([radius * turn.cos(), radius * turn.sin()], dim=1).view(-1, 2, rows, columns)
    return _blur(_blur(field, 2, sigma), 3, sigma)


def _blur(field: torch.Tensor, dim: int, sigma: float) -> torch.Tensor:
    """Periodic Gaussian blur along one dimension that keeps the variance of white noise."""
    reach = math.ceil(2.5 * sigma)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    norm = math.sqrt(sum(weight * weight for weight in weights))
    size = field.shape[dim]
    padded = torch.cat([field.narrow(dim, size - reach, reach), field, field.narrow(dim, 0, reach)], dim)
    result = padded.narrow(dim, 0, size) * (weights[0] / norm)
    for offset, weight in enumerate(weights[1:], start=1):
        result.add_(padded.narrow(dim, offset, size), alpha=weight / norm)
    return result
