"""The Ray Train worker group: every rank has an engine per student and trains all of them on each batch.

consumes: micro-batches of taught clips / produces: published checkpoints, ledger, numbers for the progress actor
waits for: the stream, and its fellow ranks once per step / unblocked by: the teacher pool
"""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import uuid
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.errors import EchoDFKDError
from echodfkd.runtime.cluster.connection import actor_name, node_labels
from echodfkd.runtime.cluster.preemption import DrainWatch, StopWatch
from echodfkd.runtime.stream.batches import ComingPass, PassData, pass_name, stream_batches
from echodfkd.runtime.stream.clip_stream import build_stream, execution_options
from echodfkd.storage.files import RunStorage
from echodfkd.training.loop import WorkerContext, train
from echodfkd.training.student import StudentMemoryError


def build_trainer(config: RunConfig, *, teacher_id: str, progress_actor: Any, lease_epoch: int) -> TorchTrainer:
    """The trainer of this run: one worker group, one dataset per pass, restarts that resume from the manifests.

    After a restart a pass is built anew, and skips the slots consumed by then.
    """
    passes: dict[str, Any] = {
        pass_name(number): ComingPass(functools.partial(build_stream, config, number, teacher_id, progress_actor))
        for number in range(config.num_passes)
    }
    return TorchTrainer(
        train_loop,
        train_loop_config={
            "config": config,
            "teacher_id": teacher_id,
            "progress_actor": progress_actor,
            "lease_epoch": lease_epoch,
        },
        **worker_group(config, f"{config.root}/logs"),
        datasets=passes,
        dataset_config=PassData(execution_options=execution_options(config), enable_shard_locality=False),
    )


def worker_group(config: RunConfig, logs: str) -> dict[str, Any]:
    """The arguments of a trainer whose workers are those of `train`, and restart as often."""
    workers = config.train
    return {
        "torch_config": TorchConfig(backend="nccl" if real_gpu(config) else "gloo"),
        "scaling_config": ScalingConfig(
            num_workers=workers.workers,
            use_gpu=workers.num_gpus > 0,
            resources_per_worker=worker_resources(config),
            label_selector=node_labels(workers.node_label),
        ),
        "run_config": ray.train.RunConfig(
            name="ray_train", storage_path=logs, failure_config=FailureConfig(max_failures=workers.max_failures)
        ),
    }


def fit(trainer: TorchTrainer) -> dict[str, Any]:
    """What rank 0 returned. Raises `KeyboardInterrupt` on Ctrl-C, and Ray's errors of a group that has failed."""
    try:
        found: dict[str, Any] = trainer.fit().return_value
        return found
    except SystemExit as leaving:  # Ray Train turns Ctrl-C into it, after it has ended its workers
        raise KeyboardInterrupt from leaving
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray Train leaves its own behind


def set_threads(config: RunConfig) -> None:
    """Torch threads of a worker: train.threads, or as many as its CPUs."""
    torch.set_num_threads(config.train.threads or max(1, math.ceil(config.train.num_cpus)))


def worker_resources(config: RunConfig) -> dict[str, float]:
    """Resources that Ray reserves for one student worker."""
    resources = {"CPU": config.train.num_cpus}
    if config.train.num_gpus:
        resources["GPU"] = config.train.num_gpus
    return resources


def train_loop(loop: dict[str, Any]) -> dict[str, Any]:
    """One rank. Returns the loop's summary, or ``{"failed": sentence}``.

    An explained error is returned, not raised: all ranks agree on it, and a restart would meet it again.

    Raises:
        StudentMemoryError: of one rank of several.
    """
    config: RunConfig = loop["config"]
    progress_actor = loop["progress_actor"]
    context = ray.train.get_context()
    set_threads(config)
    worker = WorkerContext(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device="cuda" if real_gpu(config) else "cpu",
        name=actor_name(f"student{context.get_world_rank()}"),
        attempt=uuid.uuid4().hex[:8],
        report=lambda values: progress_actor.update.remote(values),
        lease_epoch=loop["lease_epoch"],
        stop_asked=StopWatch(progress_actor) if context.get_world_rank() == 0 else lambda: False,
        is_leaving=DrainWatch(),
    )
    started = {"started": clock.now()} if worker.rank == 0 else {}
    progress_actor.update.remote({f"pid_{worker.rank}": os.getpid(), **started})
    storage = RunStorage(config.root)
    try:
        return train(worker, stream_batches(config), config, storage, loop["teacher_id"])
    except StudentMemoryError as error:
        if worker.world_size > 1:
            raise  # the others may wait in an exchange with this worker: only the end of the group frees them
        return {"failed": str(error)}
    except EchoDFKDError as error:
        return {"failed": str(error)}


def real_gpu(config: RunConfig) -> bool:
    """Whether workers use a GPU: one is reserved and torch sees it (test clusters only declare GPUs)."""
    return config.train.num_gpus > 0 and torch.cuda.is_available()
