"""Pools keep their actors through a pause: Ray Data's own pool, asked as its autoscaler asks it."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.data._internal.actor_autoscaler.autoscaling_actor_pool import ActorPoolScalingRequest, AutoscalingActorConfig
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data._internal.execution.operators.actor_pool_map_operator import _NodeAwareActorPool
from ray.data.context import AutoscalingConfig

from echodfkd.runtime.stream.pacing import PatientPools


class Pool(_NodeAwareActorPool):
    """Ray Data's pool, with as much work as a test says and actors that never start."""

    work = 1.0

    def __init__(self) -> None:
        nothing = ExecutionResources.zero()
        super().__init__(
            lambda labels, name: (object(), ray.ObjectRef.from_random(), nothing),
            AutoscalingActorConfig(1, 4, 4, 2, 1, nothing),
        )
        self.scale(ActorPoolScalingRequest.upscale(delta=4))

    def get_pool_util(self) -> float:
        return self.work


@pytest.mark.parametrize(("callbacks", "sizes"), [([], [4, 1, 1, 1]), ([PatientPools()], [4, 4, 4, 1])])
def test_a_pool_gets_smaller_after_minutes_without_work_and_not_in_a_pause(
    monkeypatch: pytest.MonkeyPatch, callbacks: list[PatientPools], sizes: list[int]
) -> None:
    """Work for a minute, none for half a minute, work again, none for three minutes: ten seconds a step."""
    now, pool = [time.time()], Pool()
    monkeypatch.setattr(time, "time", lambda: now[0])
    executor: Any = SimpleNamespace(
        _data_context=SimpleNamespace(autoscaling_config=AutoscalingConfig()),
        _topology=[SimpleNamespace(get_autoscaling_actor_pools=lambda: [pool])],
    )
    found = []
    for steps, pool.work in ((6, 1.0), (3, 0.0), (1, 1.0), (18, 0.0)):
        for _ in range(steps):
            now[0] += 10.0
            for callback in callbacks:
                callback.on_execution_step(executor)
            if not pool.work and pool.current_size() > pool.min_size():
                pool.scale(ActorPoolScalingRequest.downscale(delta=-1))
        found.append(pool.current_size())
    assert found == sizes
