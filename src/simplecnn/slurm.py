"""The SLURM job that this process runs in, and its place in a run of several. No torch."""

import logging
import os
import re
import subprocess

log = logging.getLogger(__name__)
JOB = "SLURM_JOB_ID"


def slurm_job() -> str | None:
    """What SLURM calls this job, `123` or, in an array, `123_4`; None outside of SLURM."""
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job and task else os.environ.get(JOB, "")
    return name if re.fullmatch(r"\d+(_\d+)?", name) else None


def is_further_process() -> bool:
    """Whether this process is not the first one of a run: by torchrun, by Lightning, which starts
    the others with the same command, or by a task of SLURM's."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return any(os.environ.get(rank, "0") != "0" for rank in ranks)


def was_requeued() -> bool:
    """Whether SLURM started this job before."""
    return slurm_job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def requeue() -> None:
    """Ask SLURM to restart this job."""
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
        log.warning("SLURM does not restart job %s: %s", job, reason)
    else:
        log.info("SLURM restarts job %s, and the run resumes.", job)
