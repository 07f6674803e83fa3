"""Progress of a run: one plain line every few seconds, metrics, and the memory used."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.counter import clock_time, time_of_day
from echodfkd.core.errors import RunError
from echodfkd.core.terminal import json_line
from echodfkd.reporting.live.live_view import STARTING, ProgressSnapshot, left_after_training, live_view
from echodfkd.runtime.cluster.host_memory import memory_mb
from echodfkd.runtime.cluster.metrics import Exporter, gauge_values
from echodfkd.runtime.cluster.resources import Role, RoleNow, free_nodes, missing_roles, place
from echodfkd.runtime.cluster.rooms import Answer, Room
from echodfkd.runtime.living import Living, keep_pools
from echodfkd.storage.files import RunStorage

FIRST_ACTOR_TIMEOUT_S = 120.0
"""Time for the first, smallest actor to start: seconds on a healthy cluster."""

WINDOW_S = 60.0
"""Rates are means over it, so that they neither jump nor fall to 0 between two updates."""

SEEN_S = 120.0
"""An actor that has finished no block for so long, while others of its pool have, is not counted as one at work."""

SILENT_S = 30.0
"""A run without an update for so long says so."""

MAX_LOSSES = 4
"""Most students whose losses the line shows by name."""


class ProgressActor:
    """Holds the newest numbers of each stage, and the driver's request to stop. A run goes on without it.

    consumes: dictionaries from rank 0 and the evaluator pool / produces: the driver's progress line

    Args:
        pools: actors at work in each pool when the run was left; none if it starts.
    """

    def __init__(self, pools: Mapping[str, int] | None = None) -> None:
        self.pools = dict(pools or {})
        self.values: dict[str, Any] = {}
        self.seen: dict[str, dict[str, float]] = {}
        self.stopping = asyncio.Event()

    async def update(self, values: dict[str, Any]) -> None:
        """Merge new values. Workers that start begin a new stream: clips in an earlier one are gone with it."""
        if "started" in values:
            self.values["taught"] = 0
            self.values["starts"] = self.values.get("starts", 0) + 1
        self.values.update(values)

    async def add_work(self, stage: str, actor: str, clips: int) -> None:
        """Count clips that an actor of a pool has just finished."""
        self.seen.setdefault(stage, {})[actor] = clock.now()
        if stage == "teacher":
            self.values["taught"] = self.values.get("taught", 0) + clips

    async def actors_at_work(self, stage: str) -> int:
        """Actors of a pool that had finished a block within the `SEEN_S` before its last one.

        It does not fall while the stream stands still, for the loss of students or of a machine. Before the first
        block it is that of the run that this one resumes.
        """
        times = self.seen.get(stage, {}).values()
        return sum(time >= max(times) - SEEN_S for time in times) if times else self.pools.get(stage, 0)

    async def read(self) -> dict[str, Any]:
        """Everything so far."""
        return self.values

    async def stop(self) -> None:
        """Ask the workers to publish after their next update and to stop."""
        self.stopping.set()

    async def wait_for_stop(self) -> bool:
        """Return True once `stop` was called."""
        return await self.stopping.wait()


def start_progress_actor(pools: Mapping[str, int] | None = None) -> Any:
    """The handle of a new progress actor, on the driver's own node. ``pools``: see `ProgressActor`."""
    return ray.remote(ProgressActor).options(num_cpus=0).remote(pools)


def wait_for_first_actor(progress_actor: Any) -> None:
    """Raise `RunError` if the cluster starts no process: all else would wait for ever, without a message."""
    try:
        ray.get(progress_actor.read.remote(), timeout=FIRST_ACTOR_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise RunError(
            f"the cluster started no actor within {FIRST_ACTOR_TIMEOUT_S:g} s; its logs (session_latest/logs in"
            " Ray's temporary folder, /tmp/ray by default) say why"
        ) from error


def first_update_time(progress_actor: Any) -> float | None:
    """When the workers finished their first update since they last started; None if the progress actor is gone."""
    try:
        return ray.get(progress_actor.read.remote(), timeout=5).get("first_step_time")
    except ray.exceptions.RayError:
        return None


@dataclass(frozen=True)
class Pace:
    """Clips trained per second over the last `WINDOW_S`, seconds to the last update, clips taught and not yet trained.

    Rate and time are None before the second update.
    """

    clips_s: float | None
    eta_s: float | None
    queue: int


class ProgressLine:
    """A thread that prints the progress actor's values, exports them as metrics and samples memory, until closed.

    It also looks at the processes (`Living`), and tells the roles that the run lacks to the cluster's others (`Room`).
    """

    def __init__(self, config: RunConfig, progress_actor: Any, print_line: Callable[[str], None], room: Room) -> None:
        self.config = config
        self.progress_actor = progress_actor
        self.print_line = print_line
        self.started = clock.now()
        self.peak_memory_mb = 0.0
        self._room = room
        self._living = Living(config)
        self._missing: dict[str, Role] = {}
        self.is_training = True
        self._samples: deque[tuple[float, int]] = deque()
        self._newest = (0, self.started)
        self._kept = 0
        self._exporter = Exporter(config.name)
        self._view = live_view(config.name) if config.ray.progress_s else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop printing, after a last memory sample."""
        self._stop.set()
        self._thread.join(timeout=10)
        if self._view is not None:
            self._view.close()
        self.peak_memory_mb = max(self.peak_memory_mb, memory_mb())

    def _watch(self) -> None:
        every = self.config.ray.progress_s
        while not self._stop.wait(every or 5.0):
            memory = memory_mb()
            self.peak_memory_mb = max(self.peak_memory_mb, memory)
            try:
                values = ray.get(self.progress_actor.read.remote(), timeout=5)
                roles = self._living.look(values)
                shown = self.snapshot(values, roles, memory)
                self._exporter.export(gauge_values(self.config, shown, roles))
                self._keep_pools(int(values.get("published", 0)))
            except Exception:  # noqa: S112 a progress line must never end a run
                continue
            if self._view is not None:
                self._view.show(shown)
            elif every:
                self.print_line(self.json(shown) if self.config.ray.json_lines else self.line(shown))

    def snapshot(self, values: dict[str, Any], roles: Mapping[str, RoleNow], memory: float) -> ProgressSnapshot:
        """The run at this moment."""
        pace, step = self.pace(values), int(values.get("step", 0))
        if step != self._newest[0]:
            self._newest = (step, clock.now())
        return ProgressSnapshot(
            values,
            elapsed_s=clock.now() - self.started,
            total=self.config.train.steps,
            clips_s=pace.clips_s,
            eta_s=pace.eta_s,
            queue=pace.queue,
            memory_mb=memory,
            silent_s=clock.now() - self._newest[1] if self.is_training else 0.0,
            segment=min(step // self.config.segment_steps + 1, self.config.num_segments),
            living={name: now.text for name, now in roles.items() if now.is_news},
            shares=self._living.shares(values),
            waits=self.waits(roles),
        )

    def _keep_pools(self, published: int) -> None:
        """Keep the pools' sizes with every new checkpoint."""
        if published > self._kept and (sizes := self._living.pools()):
            keep_pools(RunStorage(self.config.root), sizes)
            self._kept = published

    def waits(self, roles: Mapping[str, RoleNow]) -> str:
        """The roles that find no room, and who holds it; empty if all have their machines.

        A role that lacks a process at two looks and finds no room for it waits: in between, processes come and go.
        """
        missing = {role.name: role for role in missing_roles(roles) if self.is_training or role.name == "evaluator"}
        lasting = [role for name, role in missing.items() if name in self._missing]
        others = self._room.tell(list({**self._missing, **missing}.values()))
        self._missing = missing
        found = place(lasting, free_nodes()) if lasting else []
        return Answer(found, others).text if found else ""

    def pace(self, values: dict[str, Any]) -> Pace:
        """The students' rate over the last `WINDOW_S`, or since the first update if there was none within it."""
        now, step, batch = clock.now(), int(values.get("step", 0)), self.config.train.global_batch
        left = self.config.train.steps - step
        queue = min(max(0, int(values.get("taught", 0)) - int(values.get("clips", 0))), left * batch)
        if not step:
            return Pace(None, None, queue)
        first = (float(values["first_step_time"]), int(values["first_step"]))
        if not self._samples or self._samples[0][0] < first[0]:  # a new start of the workers
            self._samples = deque([first])
        self._samples.append((now, step))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW_S:
            self._samples.popleft()
        seconds, before = self._samples[0] if step > self._samples[0][1] else first
        if step <= before:
            return Pace(None, None, queue)
        steps_s = (step - before) / max(now - seconds, 1e-9)
        return Pace(steps_s * batch, left / steps_s, queue)

    def json(self, shown: ProgressSnapshot) -> str:
        """The line for programs: its text and its numbers."""
        names = ("elapsed_s", "total", "clips_s", "eta_s", "queue", "silent_s", "segment", "living", "shares", "waits")
        return json_line(self.line(shown), **shown.values, **{name: getattr(shown, name) for name in names})

    def line(self, shown: ProgressSnapshot) -> str:
        """The line for a person."""
        values, waits = shown.values, f" | waits: {shown.waits}" if shown.waits else ""
        begin = f"{time_of_day()} | {clock_time(shown.elapsed_s)}"
        step = int(values.get("step", 0))
        living = "".join(f" | {text}" for text in shown.living.values())
        if not step:
            return f"{begin} | {STARTING}{living}{waits}"
        if step >= shown.total:
            return ", ".join([f"{begin} | all {shown.total} updates are done", *left_after_training(values)])
        rate = "" if shown.clips_s is None else f" | {shown.clips_s:.3g} clips/s"
        eta = "after the next update" if shown.eta_s is None else clock_time(shown.eta_s)
        scored = f" | scored {values['scored']}" if "scored" in values else ""
        wait = 100 * float(values.get("wait_share", 0.0))
        losses = _loss_text(dict(values.get("losses", {})), len(self.config.students))
        silent = f" | no update for {clock_time(shown.silent_s)}" if shown.silent_s > SILENT_S else ""
        again = f", students started {values['starts']} times" if values.get("starts", 1) > 1 else ""
        segments = f" | segment {shown.segment} of {self.config.num_segments}" if self.config.num_segments > 1 else ""
        return (
            f"{begin} | update {step}/{shown.total}{again}{segments}{rate}{silent} | loss {losses}"
            f" | queue {shown.queue} clips | students wait {wait:.0f} %{living}{scored} | ETA {eta}{waits}"
        )


def spoken(config: RunConfig, print_line: Callable[[str], None]) -> Callable[[str], None]:
    """How a run prints its messages: as they are, or each as a JSON object (`ray.json_lines`)."""
    return (lambda line: print_line(json_line(line))) if config.ray.json_lines else print_line


def _loss_text(losses: dict[str, float], students: int) -> str:
    """Each student's loss; for many students only the lowest and the highest, and the number stopped early."""
    shown = sorted(losses.items(), key=lambda item: item[1])
    if len(shown) > MAX_LOSSES:
        text = "{} {:.4f} .. {} {:.4f}".format(*shown[0], *shown[-1])
    else:
        text = " ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    stopped = students - len(losses)
    return f"{text} ({stopped} of {students} students have stopped)" if losses and stopped > 0 else text
