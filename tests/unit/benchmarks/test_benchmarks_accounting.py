"""The accounting benchmark measures the real loop, and finds extra work planted in it."""

import time

import pytest

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.storage.ledger import LedgerBuffer
from tests.benchmarks import cases
from tests.benchmarks.accounting import measure_accounting

TINY = {"tiny": StudentConfig(blocks=1, layers=1, filters=2)}
WINDOW = WindowConfig(frames=2, size=16)


def test_the_parts_add_up_and_planted_work_counts_as_accounting(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_accounting(TINY, steps=1, window=WINDOW)  # late imports would count as accounting of the first run
    plain = measure_accounting(TINY, steps=20, window=WINDOW)
    assert plain.steps == 20
    assert min(plain.training, plain.clips, plain.accounting) > 0
    assert plain.training + plain.clips + plain.accounting == pytest.approx(plain.total)
    add = LedgerBuffer.add_trained

    def slow(self: LedgerBuffer, *arguments: object) -> None:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        add(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LedgerBuffer, "add_trained", slow)
    slowed = measure_accounting(TINY, steps=20, window=WINDOW)
    assert slowed.accounting >= 0.4  # 20 steps of 0.02 s of CPU each
    assert slowed.ratio > plain.ratio


def test_the_case_is_listed() -> None:
    assert "accounting" in cases.CASES
