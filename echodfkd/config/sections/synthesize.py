"""Options of `synthesize`: the data set that echodfkd synthesize writes."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import GPUS, MOST_CPUS, MOST_WEIGHT, option


@dataclass(frozen=True)
class SynthesizeConfig:
    """Clips written to a folder (echodfkd synthesize): ``source`` at window.fps and window.size, by index."""

    out: str = option("", path="output")
    """Folder or fsspec URL that the clips are written to."""
    format: str = option("echonet", choices=("echonet", "parquet"))
    """echonet (AVI files, FileList.csv, VolumeTracings.csv) or parquet (shards with the truth of every frame)."""
    clips: int = option(100, least=1, ceiling=10**9)
    """Number of clips."""
    first_index: int = option(0, least=0, ceiling=10**15)
    """Index of the first clip; clips of other indices belong into another folder."""
    frames: int = option(64, least=0, ceiling=4096)
    """Frames of every clip; 0 draws each clip's own length from source.conditions.num_frames (phantom, generators)."""
    shard_clips: int = option(16, least=1, ceiling=100_000)
    """Clips that one task makes and commits together: the loss of an interruption, and one Parquet file."""
    split: str = "TRAIN"
    """FileList.csv's Split of all clips, if there are no split_shares."""
    split_shares: dict[str, float] = option(factory=dict, above=0, ceiling=MOST_WEIGHT)
    """Relative share of each split, e.g. {TRAIN: 0.75, VAL: 0.12, TEST: 0.13}; held to within one clip."""
    num_cpus: float = option(1.0, least=0.01, ceiling=MOST_CPUS)
    """CPUs that Ray reserves for one task."""
    num_gpus: float = option(0.0, **GPUS)
    """GPUs that Ray reserves for one task: a generator runs there."""
    in_flight_per_cpu: int = option(2, least=1, ceiling=1024)
    """Shards handed to Ray and not finished, per task that the cluster can run at once: one runs, one waits."""
    preview: int = option(24, least=0, ceiling=1000)
    """Clips in preview.png and preview.mp4; 0 draws none."""
