"""End the jobs that run on this head: each publishes a checkpoint first. The preStop hook of cluster/kuberay.

Kubernetes ends a pod's processes by a signal that Ray does not pass on to its jobs: without this a drained node, a
suspended RayJob or Kueue's preemption loses the updates since the newest checkpoint.
"""

from __future__ import annotations

import time

from ray.job_submission import JobSubmissionClient  # noqa: TID251 runs on a cluster's head, without the package

WAIT_S = 75.0
"""Longer than train.stop_grace_s, and shorter than the pod's terminationGracePeriodSeconds."""


def stop_jobs(client: JobSubmissionClient, wait_s: float = WAIT_S) -> list[str]:
    """Ask every running job to end, and wait until all have. Returns the ids of those that still run."""
    asked = [job.submission_id for job in client.list_jobs() if job.submission_id and not job.status.is_terminal()]
    for name in asked:
        client.stop_job(name)
    deadline = time.monotonic() + wait_s
    while (left := [name for name in asked if not client.get_job_status(name).is_terminal()]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.5)
    return left


if __name__ == "__main__":
    stop_jobs(JobSubmissionClient("http://127.0.0.1:8265"))
