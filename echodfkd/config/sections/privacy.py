"""Options of `privacy`: clips that resemble a reference clip too much are not used."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import option

ENCODERS = ("reidentification", "pixels")


@dataclass(frozen=True)
class PrivacyConfig:
    """The privacy filter: a clip of any source is quarantined if the features of its first frame correlate more with
    those of a reference frame than a threshold (docs/how-to/generators.md).
    """

    encoder: str = option("", choices=("", *ENCODERS))
    """reidentification (EchoNet-Synthetic's network) or pixels (a frame averaged down to 16 x 16); empty filters
    nothing."""
    weights: str = option("", path="input", identity=False)  # known by the reference, which is made with them
    """reidentification: the folder with its files and the autoencoder's (docs/reference/published-generators.md)."""
    reference: str = option("", path="input", identity=False)  # known by the next one
    """File of the reference frames' features and the threshold, which `echodfkd privacy-reference` writes."""
    reference_sha256: str = option("", pattern="([0-9a-f]{64})?", expected="64 hexadecimal digits")
    """Of that file; filled in when the config is loaded."""
