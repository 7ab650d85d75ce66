"""The SLURM job of this process, and the rank of this process within its run."""

import logging
import os
import re
import subprocess

log = logging.getLogger(__name__)
JOB = "SLURM_JOB_ID"


def slurm_job() -> str | None:
    """The ID of this SLURM job: `123`, or `123_4` in a job array. None outside SLURM."""
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job and task else os.environ.get(JOB, "")
    return name if re.fullmatch(r"\d+(_\d+)?", name) else None


def is_further_process() -> bool:
    """Whether the rank of this process, as set by torchrun, Lightning or SLURM, is not 0."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return any(os.environ.get(rank, "0") != "0" for rank in ranks)


def was_requeued() -> bool:
    """Whether SLURM has restarted this job."""
    return slurm_job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def requeue() -> None:
    """Ask SLURM to restart this job, and log the outcome. Does nothing outside SLURM."""
    job = slurm_job()
    if job is None:
        return
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=30
        )
        reason = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        log.warning("SLURM did not requeue job %s: %s", job, reason)
    else:
        log.info("SLURM requeued job %s; the run will resume.", job)
