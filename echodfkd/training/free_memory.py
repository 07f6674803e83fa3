"""How much memory a worker may still take, and which other workers take from the same."""

from __future__ import annotations

import socket
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


def free_memory(device: torch.device) -> tuple[str, int | None]:
    """A name for the memory that a device computes in, and its free bytes (None where nobody can tell).

    Workers with the same name share it. On a CPU that is the machine's available memory, or less where a control
    group (a container, a batch system) limits it.
    """
    host = socket.gethostname()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        free, _ = torch.cuda.mem_get_info(device)
        return f"{host}, GPU {getattr(properties, 'uuid', properties.name)}", free
    try:
        import psutil
    except ImportError:  # a pure installation: nothing to compare with
        return host, None
    limits = [psutil.virtual_memory().available, *cgroup_free(_CGROUPS, Path("/proc/self/cgroup"))]
    return host, min(limits)


def cgroup_free(root: Path, membership: Path) -> list[int]:
    """Bytes left under each memory limit that binds this process: its own control group's and those above it.

    Cache of files that nobody uses counts as free: the kernel gives it back before it refuses memory.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        own = top / path.strip("/")
        for folder in (own, *own.parents):
            found += _left(folder)
            if folder == top:
                break
    return found


def _left(folder: Path) -> list[int]:
    for limit, usage, cache in _FILES:
        try:
            most = (folder / limit).read_text().strip()
            used = int((folder / usage).read_text())
            stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most.isdigit():  # "max" limits nothing
            return [max(0, int(most) - used + int(stat.get(cache, 0)))]
    return []
