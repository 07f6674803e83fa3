"""Targets that do what must be seen: the harness's own test runs them."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from echodfkd.core.errors import InputError


class Bad:
    """Case 1 does harm, all others are refused."""

    def __init__(self, name: str, harm: Callable[[], object]) -> None:
        self.name, self.harm = name, harm

    def run(self, rng: random.Random) -> None:
        if rng.random() == random.Random(f"1/{self.name}/1").random():
            self.harm()
        raise InputError("refused")


TARGETS: dict[str, Callable[[Path], Bad]] = {
    "crash": lambda _: Bad("crash", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "hang": lambda _: Bad("hang", lambda: time.sleep(3600)),
    "memory": lambda _: Bad("memory", lambda: bytearray(1 << 34)),
}
