"""A run across several hosts with addresses of their own, one of which is cut off and connected again."""

import json
from pathlib import Path

import pytest

from echodfkd.core.records import PublishedCheckpoint
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import list_checkpoints
from tests.integration.fault_rows import record
from tests.integration.helpers_namespaces import run_apart

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # some two minutes: four nodes start, one has to be given up

SLOTS = 240


def test_a_run_goes_on_without_a_host_that_is_cut_off(short_path: Path) -> None:
    found = run_apart("tests/integration/hosts_run.py", short_path, timeout_s=590)
    assert found["exit"] == 0, found
    assert json.loads(found["last"])["ledger"] == {
        "clips": SLOTS,
        "lost": 0,
        "to_come": 0,
        "repeated": 0,
        "quarantined": 0,
    }
    assert found["apart"], "teachers and students have nodes of their own"
    storage = RunStorage(f"{short_path}/runs/hosts")
    report = check_ledger(storage, SLOTS)
    assert (report.lost, report.repeated, report.problems) == (0, 0, [])
    newest: PublishedCheckpoint = list_checkpoints(storage)[-1]
    assert newest.step == 60
    record(
        report,
        "a host with teachers is cut off the network",
        "its node is given up after some 10 s of silence; its blocks are made again elsewhere",
        detected_s=found["given_up_s"],
        extra_s=found["went_on_s"],
    )
    print(f"given up after {found['given_up_s']} s, the next checkpoint {found['went_on_s']} s later")


def test_students_on_two_hosts_go_on_after_a_drain_and_after_a_loss(short_path: Path) -> None:
    found = run_apart("tests/integration/students_run.py", short_path, timeout_s=590)
    assert found["exit"] == 0, found
    storage = RunStorage(f"{short_path}/runs/students")
    report = check_ledger(storage, 960)
    assert (report.clips, report.lost, report.repeated, report.problems) == (960, 0, 0, [])
    assert len(found["workers"]) == 6, "two workers, two after the drain, and two after the loss"
    record(
        report,
        "one of two hosts with students is drained and taken away, and joins again",
        "a checkpoint is published at the notice; both workers start again with the host",
        detected_s=found["noticed_s"],
    )
    record(
        report,
        "one of two hosts with students is cut off the network, and joins again",
        "its node is given up after some 10 s of silence; both workers start again from the newest checkpoint",
        detected_s=found["times_s"][2],
        extra_s=found["times_s"][3],
    )
    print(json.dumps(found))
