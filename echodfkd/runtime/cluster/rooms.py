"""Several runs on one cluster: each starts once there is room for all its roles, in the order in which they asked.

A run whose students have started and whose teachers find no room holds machines and does nothing; two such runs wait
for each other. So one actor per cluster lets runs in one after the other, each for all its roles. Room is all that
no process holds now, less the roles that runs were let in for and have not taken yet, or have given up for a moment:
after the loss of a machine. Ray's own placement groups do not know these.

The actor reserves nothing and ends with the last run. A run that has died is left out at the next question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private import state as ray_state
from ray.autoscaler.sdk import request_resources
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.core.redaction import redact
from echodfkd.runtime.cluster.environment import cluster_address
from echodfkd.runtime.cluster.resources import Node, Role, free_nodes, held_bundles, place, roles
from echodfkd.runtime.cluster.scaling import bundles_of

NAMESPACE = "echodfkd"
LOOK_S = 2.0
"""Seconds between two questions of a run that waits."""
SAY_S = 60.0
"""A run that waits says so again after this time."""
ANSWER_S = 120.0
"""Time for the actor to start and answer: its process imports the configuration, slowly on a busy machine."""
TRIES = 20
"""Questions to an actor that is ending, half a second apart, before that counts as an error."""


@dataclass
class Guest:
    """One run that was let in, or waits."""

    name: str
    missing: list[Role]
    """Roles that it has not taken: all until it starts."""
    is_in: bool = False


@dataclass(frozen=True)
class Answer:
    """The roles that are missing (none: the run is let in), and who holds their room."""

    missing: list[str] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """One sentence."""
        held = f"; held by {', '.join(self.holders)}" if self.holders else ""
        return " | ".join(self.missing) + held


def admit(guests: dict[str, Guest], job: str, nodes: list[Node]) -> list[str]:
    """Let a run in if its roles fit beside those that are in. Returns the roles that are missing, none if it is in.

    Args:
        guests: all runs by their job, in the order in which they asked.
        job: of the run that asks.
        nodes: resources that no process holds now; changed.
    """
    asks = guests[job]
    if asks.is_in:
        return []
    order = list(guests)
    before = [guests[other].name for other in order[: order.index(job)] if not guests[other].is_in]
    if before:
        return [f"run {before[0]} waits before this one"]
    for guest in guests.values():
        if guest.is_in:
            place(guest.missing, nodes)
    missing = place(asks.missing, nodes)
    asks.is_in = not missing
    return missing


class Rooms:
    """The runs of a cluster, in an actor of their own: it answers one after the other."""

    def __init__(self) -> None:
        self.guests: dict[str, Guest] = {}

    def ask(self, job: str, name: str, wanted: list[Role]) -> Answer:
        """Let a run in if there is room for all of it."""
        self._forget_dead()
        self.guests.setdefault(job, Guest(name, wanted))
        missing = admit(self.guests, job, free_nodes())
        return Answer(missing, self._others(job)) if missing else Answer()

    def tell(self, job: str, name: str, missing: list[Role]) -> list[str]:
        """The roles that a run that is in lacks now. Returns the others that are in."""
        self.guests[job] = Guest(name, missing, is_in=True)
        return self._others(job)

    def leave(self, job: str) -> None:
        """A run has ended. With the last one this actor ends."""
        self.guests.pop(job, None)
        self._forget_dead()
        if not self.guests:
            ray.actor.exit_actor()

    def _forget_dead(self) -> None:
        live = {job["JobID"] for job in ray_state.jobs() if not job["IsDead"]}
        self.guests = {job: guest for job, guest in self.guests.items() if job in live}

    def _others(self, job: str) -> list[str]:
        """Runs that are in, and other live jobs that have actors, as a person knows them."""
        runs = {other: f"run {guest.name}" for other, guest in self.guests.items() if other != job and guest.is_in}
        jobs = {found["JobID"]: found["Entrypoint"] for found in ray_state.jobs() if not found["IsDead"]}
        alive = ray_state.actors(None, None, "ALIVE").values()
        at_work = {a["JobID"] for a in alive if not a["IsDetached"] and a["ActorClassName"] != "JobSupervisor"}
        known = {job, *self.guests}
        strangers = [f"job {other} ({redact(jobs[other])[:80]})" for other in sorted(at_work - known) if other in jobs]
        return [f"{name} (job {other})" for other, name in runs.items()] + strangers


class Room:
    """A run's place on its cluster; the whole cluster if that is the run's own."""

    def __init__(self, config: RunConfig) -> None:
        self.is_shared = cluster_address(config.ray.address) != "local"
        self._name = config.name
        self._wanted = roles(config)
        self._job = ray.get_runtime_context().get_job_id()
        self._has_left = False

    def ask(self) -> Answer:
        """Ask for room."""
        answer: Answer = self._call("ask", self._job, self._name, self._wanted)
        return answer

    def tell(self, missing: list[Role]) -> list[str]:
        """The roles that the run lacks now. Returns the others on the cluster."""
        if not self.is_shared or self._has_left:  # a late word would keep room for a run that is over
            return []
        found: list[str] = self._call("tell", self._job, self._name, missing)
        return found

    def leave(self) -> None:
        """The run has ended."""
        self._has_left = True
        with suppress(RayActorError, GetTimeoutError):  # as the last one it ends the actor
            ray.get(self._actor().leave.remote(self._job), timeout=ANSWER_S)

    def _actor(self) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {"name": "rooms", "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        return ray.remote(Rooms).options(num_cpus=0, scheduling_strategy=here, **options).remote()

    def _call(self, method: str, *arguments: Any) -> Any:
        for _ in range(TRIES):
            try:
                return ray.get(getattr(self._actor(), method).remote(*arguments), timeout=ANSWER_S)
            except GetTimeoutError:
                break
            except RayActorError:  # it ended with the last run, as this one came
                time.sleep(0.5)
        raise RunError("the cluster's list of runs (actor rooms, namespace echodfkd) does not answer")


@contextmanager
def room_for(config: RunConfig, print_line: Callable[[str], None]) -> Iterator[Room]:
    """Enter the block once the cluster has room for all roles of the run at the same time, beside those of others.

    Raises:
        RunError: there was none within `ray.wait_for_room_s`.
    """
    room = Room(config)
    if not room.is_shared:
        yield room
        return
    try:
        _wait(config, room, print_line)
        yield room
    finally:
        room.leave()


def _wait(config: RunConfig, room: Room, print_line: Callable[[str], None]) -> None:
    wait_s, started, said, before = config.ray.wait_for_room_s, time.monotonic(), -SAY_S, Answer()
    while (answer := room.ask()).missing:
        waited = time.monotonic() - started
        if waited >= wait_s:
            raise RunError(
                f"the cluster has no room for this run, and none came within ray.wait_for_room_s ({wait_s:g} s):"
                f" {answer.text}"
            )
        if answer.holders != before.holders or waited - said >= SAY_S:
            print_line(f"waiting for room, {waited:.0f} of up to {wait_s:g} s: {answer.text}")
            before, said = answer, waited
        if config.ray.wait_for_nodes_s:
            wanted, selectors = bundles_of(roles(config))
            held = held_bundles()
            request_resources(bundles=held + wanted, bundle_label_selectors=[{} for _ in held] + selectors)
        time.sleep(LOOK_S)
    if before.missing:
        print_line(f"there is room after {time.monotonic() - started:.0f} s")
