"""Checks of `privacy`."""

from __future__ import annotations

from echodfkd.config.sections.privacy import PrivacyConfig
from echodfkd.core.errors import ConfigError


def check_privacy(privacy: PrivacyConfig) -> None:
    """Refuse a filter without its files, and files without a filter. Raises `ConfigError`."""
    if not privacy.encoder:
        for name in ("weights", "reference"):
            if getattr(privacy, name):
                raise ConfigError(f"privacy.{name}: set, but privacy.encoder is empty; name an encoder")
        return
    if not privacy.reference:
        raise ConfigError(
            f"privacy.reference: empty, but privacy.encoder is {privacy.encoder}; name the file that"
            " `echodfkd privacy-reference` writes"
        )
    if (privacy.encoder == "reidentification") != bool(privacy.weights):
        needed = "name the folder of its files" if not privacy.weights else "which has none"
        raise ConfigError(
            f"privacy.weights: got {privacy.weights!r}, but privacy.encoder is {privacy.encoder}; {needed}"
        )
