"""What a block costs on its way through the object store: its bytes, and how often its pixels are copied."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
from ray.data.block import BlockAccessor


@dataclass(frozen=True)
class BlockBytes:
    """One block of the stream.

    Attributes:
        buffers: bytes that lie in the store and are mapped by whoever reads the block.
        in_band: bytes around them, which every reader parses.
        build_copies: whether each column of pixels was copied to make the block.
        read_copies: whether a reader's array of it is a copy of what lies in the store.
    """

    buffers: int
    in_band: int
    build_copies: dict[str, bool]
    read_copies: dict[str, bool]


def measure_block(columns: dict[str, np.ndarray]) -> BlockBytes:
    """Make a block as Ray Data does, store it as Ray does (pickle 5, buffers out of band), and read it as a batch."""
    pixels = [name for name, column in columns.items() if column.dtype == np.uint8]
    block = BlockAccessor.batch_to_block(columns)
    parts: list[pickle.PickleBuffer] = []
    in_band = pickle.dumps(block, protocol=5, buffer_callback=parts.append)
    stored = [np.frombuffer(part.raw(), np.uint8) for part in parts]
    read = BlockAccessor.for_block(pickle.loads(in_band, buffers=parts)).to_batch_format("numpy")
    return BlockBytes(
        sum(len(part) for part in stored),
        len(in_band),
        {name: not any(np.shares_memory(columns[name], part) for part in stored) for name in pixels},
        {name: not any(np.shares_memory(read[name], part) for part in stored) for name in pixels},
    )
