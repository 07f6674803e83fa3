"""Checks of the length of windows and cases: bytes that a process must hold, and time that a source must draw."""

from __future__ import annotations

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError

MAX_CLIP_BYTES = 1 << 30
MAX_SECONDS = 600.0
"""Longest window and case: a recording of an echo has a few beats, and a source makes all the time before its end."""


def check_lengths(config: RunConfig) -> None:
    """Refuse clips that do not fit into memory, or whose time has no end. Raises `ConfigError`."""
    window, cases = config.window, config.evaluation.frames
    if 0 < window.fps < 1:
        raise ConfigError(f"window.fps: got {window.fps:g}, must be 0 (each clip's own) or at least 1")
    if config.clip_bytes > MAX_CLIP_BYTES:
        raise ConfigError(f"window: a clip would have {config.clip_bytes} bytes, at most {MAX_CLIP_BYTES} are allowed")
    if cases * window.size**2 > MAX_CLIP_BYTES:
        raise ConfigError(
            f"evaluation.frames: {cases} frames of {window.size} x {window.size} (window.size) are"
            f" {cases * window.size**2} bytes, at most {MAX_CLIP_BYTES} are allowed"
        )
    for option, frames in (("window.frames", window.frames), ("evaluation.frames", cases)):
        if window.fps and frames / window.fps > MAX_SECONDS:
            raise ConfigError(
                f"{option}: got {frames}, which last {frames / window.fps:.0f} s at window.fps={window.fps:g}, at most"
                f" {MAX_SECONDS:.0f} s are allowed"
            )
