"""Options of `teacher.sees`: another rendering of the clips for the teacher (docs/explanation/steering.md)."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import option
from echodfkd.config.sections.source import SCANNERS


@dataclass(frozen=True)
class SeesConfig:
    """The rendering of a training clip that the teacher sees; without an option it is the student's.

    It shows the same patient and beat at the same place. The teacher's masks are resized to the student's frames.
    """

    domain: str = option("", choices=("", *SCANNERS))
    """phantom: the scanner that images the clip for the teacher; sector, pose and motion stay those of the clip."""
    size: int = option(0, least=0, ceiling=4096)
    """Side of the teacher's frames in pixels; 0 is window.size."""
    noise: bool = True
    """phantom: false leaves out the noise floor, reverberation and the artefacts of compression."""
    dropout: bool = True
    """phantom: false leaves out drop-out of walls and shadows of ribs."""
    path: str = option("", path="input")
    """recorded: a folder of the same layout that holds a video of the same name, frames, rate and field of view for
    every one of the source."""

    @property
    def is_on(self) -> bool:
        """Whether the teacher sees another rendering."""
        return self != SeesConfig()

    @property
    def name(self) -> str:
        """The rendering in a word, for ids of clips; "" if there is none."""
        parts = (
            self.path.rstrip("/").rpartition("/")[2],
            self.domain,
            f"{self.size}px" if self.size else "",
            "" if self.noise else "noiseless",
            "" if self.dropout else "whole",
        )
        return "-".join(part for part in parts if part)
