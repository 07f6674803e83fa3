"""Memory of this host's processes: its measure, and allocator settings by which they keep freed memory."""

from __future__ import annotations

import os

KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_ARENA_MAX": "1",
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Variables of glibc's allocator (mallopt(3)), read when a process starts. Large arrays come from the heap, which does
not shrink, and all threads share one heap, because a thread's own heap holds only 64 MiB. The last variable is torch's:
large tensors are put on large pages.

Without them glibc maps every array above 32 MiB anew, and the kernel clears each page at its first access. The tensors
between the layers of a network are such arrays, and every pass allocates them all.
"""


def kept_memory() -> dict[str, str]:
    """`KEPT_MEMORY`; a variable that is already set in this process keeps its value."""
    return {name: os.environ.get(name, value) for name, value in KEPT_MEMORY.items()}


def memory_mb() -> float:
    """Proportional resident memory (PSS) of this process, its children and the local cluster's processes, in MiB.

    Shared pages (the object store) count once over all of them.
    """
    import psutil  # the benchmarks for a GPU ask this module for its settings on machines without psutil

    own, total = psutil.Process(), 0
    for process in (own, *own.children(recursive=True)):  # a local cluster's raylet and workers are the driver's
        try:
            total += process.memory_full_info().pss
        except (psutil.Error, AttributeError):
            continue
    return total / 2**20
