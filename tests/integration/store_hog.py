"""A program that pins memory of a cluster's object store: python store_hog.py ADDRESS MB.

Prints ``holding`` once it does, and on end of input the store's own account of what went to disk.
"""

import sys

import numpy as np
import ray
from ray._private.internal_api import memory_summary


def main(address: str, megabytes: int) -> None:
    """Put arrays into the store and look at them: what is in use cannot be spilled."""
    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    held = [ray.get(ray.put(np.ones(4 << 20, np.uint8))) for _ in range(megabytes // 4)]
    print("holding", len(held), flush=True)
    sys.stdin.read()
    print(memory_summary(address=address, stats_only=True), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
