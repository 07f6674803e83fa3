"""Options of `synthesize`: the data set that jobs/synthesize.py writes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SynthesizeConfig:
    """Clips written to a folder (jobs/synthesize.py): ``source`` at window.fps and window.size, by index."""

    out: str = ""
    """Folder or fsspec URL that the clips are written to."""
    format: str = "echonet"
    """echonet (AVI files, FileList.csv, VolumeTracings.csv) or parquet (shards with the truth of every frame)."""
    clips: int = 100
    first_index: int = 0
    """Index of the first clip; clips of other indices belong into another folder."""
    frames: int = 64
    """Frames of every clip; 0 draws each clip's own length from source.conditions.num_frames (phantom)."""
    shard_clips: int = 16
    """Clips that one task makes and commits together: what an interruption can cost, and one Parquet file."""
    split: str = "TRAIN"
    """FileList.csv's Split of all clips, where there are no split_shares."""
    split_shares: dict[str, float] = field(default_factory=dict)
    """Relative share of each split, e.g. {TRAIN: 0.75, VAL: 0.12, TEST: 0.13}; held to within one clip."""
    num_cpus: float = 1.0
    """CPUs that Ray reserves for one task."""
    in_flight_per_cpu: int = 2
    """Shards handed to Ray and not finished, per task that the cluster can run at once: one runs, one waits."""
    preview: int = 24
    """Clips in preview.png and preview.mp4; 0 draws none."""
