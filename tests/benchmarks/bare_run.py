"""The least that Ray needs for a first batch: a local cluster, a read task, an actor, a worker. Nothing of this project
but how it starts a cluster; the actor and the worker load torch, as a teacher's and a student's must.

A process of `python -m tests.benchmarks first_update`: python -m tests.benchmarks.bare_run prints the second, since
1970, at which the worker held its first batch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from echodfkd.core import clock
from echodfkd.runtime.cluster.environment import prepare_ray


def run(folder: Path) -> float:
    """Ray Data streams eight rows through an actor to a worker of Ray Train."""
    import ray.data
    from ray.data import ActorPoolStrategy
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from echodfkd.config.run import RayConfig
    from echodfkd.runtime.cluster.connection import connected

    class Passing:
        def __init__(self) -> None:
            import torch

            torch.set_num_threads(1)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return batch

    def first_batch() -> None:
        import ray.train

        shard = ray.train.get_dataset_shard("train")
        next(iter(shard.iter_batches(batch_size=1)))
        (folder / "first").write_text(str(clock.now()))

    with connected(RayConfig(address="local")):
        rows = ray.data.range(8, override_num_blocks=8).map_batches(
            Passing, batch_size=1, compute=ActorPoolStrategy(size=1)
        )
        TorchTrainer(
            first_batch,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name="bare", storage_path=str(folder)),
            datasets={"train": rows},
        ).fit()
    return float((folder / "first").read_text())


if __name__ == "__main__":
    prepare_ray("local")
    with tempfile.TemporaryDirectory(prefix="echo-", ignore_cleanup_errors=True) as temporary:
        print(run(Path(temporary)))
