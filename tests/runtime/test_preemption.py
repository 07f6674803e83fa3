"""A worker learns once that its node is being drained."""

from types import SimpleNamespace

import pytest
from ray.exceptions import RpcError

from echodfkd.core import clock
from echodfkd.runtime.cluster import preemption
from echodfkd.runtime.cluster.preemption import LOOK_S, DrainWatch


def test_a_drain_is_told_once_and_asked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[dict[str, int] | RpcError] = [{}, {"other": 0}, RpcError("gone"), {"mine": 5, "other": 0}]
    now = [100.0]

    def draining() -> dict[str, int]:
        answer = answers.pop(0)
        if isinstance(answer, RpcError):
            raise answer
        return answer

    monkeypatch.setattr(clock, "now", lambda: now[0])
    monkeypatch.setattr(preemption.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "mine"))
    monkeypatch.setattr(preemption.ray_state, "state", SimpleNamespace(get_draining_nodes=draining))
    watch, said = DrainWatch(), []
    for _ in range(6):
        said += [watch(), watch()]
        now[0] += LOOK_S
    assert said == [False] * 6 + [True] + [False] * 5
    assert not answers
