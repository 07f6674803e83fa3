"""What processes that compute on a CPU do with memory that they have freed."""

from __future__ import annotations

import os

KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_ARENA_MAX": "1",
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Variables of glibc's allocator (mallopt(3)), read when a process starts: large arrays come from the heap, whose freed
end is not given back, and threads share one heap, because those of their own hold 64 MiB at most. The last one is
torch's: large tensors lie on large pages.

Without them glibc maps every array above 32 MiB anew, and the kernel clears each of its pages when it is first touched.
The tensors between the layers of a network are such arrays, and every pass makes them all.
"""


def kept_memory() -> dict[str, str]:
    """`KEPT_MEMORY`, but for what this process's own environment says otherwise."""
    return {name: os.environ.get(name, value) for name, value in KEPT_MEMORY.items()}
