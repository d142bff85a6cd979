"""A process's rank in a job of several processes, and the file where those of one host meet.

Launchers state it in environment variables. Those of torchrun are also set by Lightning,
Accelerate, DeepSpeed and the PyTorchJob of Kubernetes, since ``init_method="env://"`` of
``torch.distributed`` reads them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from joulelab.errors import RecorderError
from joulelab.recording.connections import runtime_directory
from joulelab.sensors.host import boot_id

HOST = "JOULELAB_HOST"
"""Another name for this host, if the system's is not unique."""
SLURM_HOST = "SLURMD_NODENAME"
"""Slurm's name for this host, which is unique where host names repeat (srun(1))."""
NO_NAME = "none"
"""torchrun's name for a job without a name."""
LOCK_TIMEOUT_S = 30.0
POLL_S = 0.01
SLURM_TIMEOUT_S = 5.0

# From the outer launcher to the inner one. The script of sbatch is not a step of srun. MPICH's are
# also those of its derivatives, for example Intel MPI and MVAPICH.
_VARIABLES = {
    "slurm": {
        "needed": "SLURM_JOB_ID SLURM_STEP_ID",
        "rank": "SLURM_PROCID",
        "local_rank": "SLURM_LOCALID",
        "world_size": "SLURM_STEP_NUM_TASKS SLURM_NTASKS",
        "node": "SLURM_NODEID",
        "nodes": "SLURM_STEP_NUM_NODES SLURM_NNODES",
    },
    "openmpi": {
        "needed": "OMPI_COMM_WORLD_RANK",
        "rank": "OMPI_COMM_WORLD_RANK",
        "local_rank": "OMPI_COMM_WORLD_LOCAL_RANK",
        "world_size": "OMPI_COMM_WORLD_SIZE",
    },
    "pmix": {"needed": "PMIX_RANK PMIX_NAMESPACE", "rank": "PMIX_RANK"},
    "mpich": {
        "needed": "PMI_RANK PMI_SIZE",
        "rank": "PMI_RANK",
        "local_rank": "MPI_LOCALRANKID",
        "world_size": "PMI_SIZE",
    },
    "torchrun": {
        "needed": "MASTER_ADDR MASTER_PORT WORLD_SIZE",
        "rank": "RANK",
        "local_rank": "LOCAL_RANK",
        "world_size": "WORLD_SIZE",
        "node": "GROUP_RANK NODE_RANK",
        "nodes": "GROUP_WORLD_SIZE",
    },
}
_JOB_NAMES = {
    "slurm": ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    "openmpi": ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"),
    "pmix": ("PMIX_NAMESPACE",),
    "mpich": ("PMI_JOBID", "PMI_PORT"),
    "torchrun": ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A process's rank in the job that a launcher started. ``None`` where it is not stated."""

    # ``"torchrun"``, ``"slurm"``, ``"openmpi"``, ``"pmix"``, ``"mpich"`` or ``"ray"``.
    launcher: str
    job: str  # Identifies the job among those of this launcher, equal on all hosts.
    # Identifies it among jobs of that name on this host, if the launcher's name is not unique;
    # otherwise ``None``.
    agent: str | None = None
    rank: int | None = None  # Among all processes of the job.
    local_rank: int | None = None  # Among those on this host.
    world_size: int | None = None  # Number of processes of the job.
    node: int | None = None  # This host's number among those of the job.
    nodes: int | None = None  # Number of hosts of the job.

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary; ``Launch(**data)`` is the inverse."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """A job of Slurm, as one of its hosts sees it."""

    id: str  # Identifies the job in its cluster.
    step: str | None  # The step of ``srun``; ``None`` in the script of ``sbatch``.
    host: str  # Slurm's name for this host.
    hosts: tuple[str, ...]  # Names of all hosts of the job; empty if they are unknown.

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary; ``BatchJob(**data)`` is the inverse."""
        return asdict(self)


def host_name() -> str:
    """Return this host's name: ``$JOULELAB_HOST``, or Slurm's name for it, or the system's."""
    return os.environ.get(HOST) or os.environ.get(SLURM_HOST) or os.uname().nodename


def current_batch_job(environ: Mapping[str, str] = os.environ) -> BatchJob | None:
    """Return the job of Slurm in which this process runs; ``None`` if it is in none."""
    job, host = environ.get("SLURM_JOB_ID"), environ.get(SLURM_HOST)
    if not job or not host:
        # A shell of salloc is on a host that is not the job's.
        return None
    nodes = environ.get("SLURM_JOB_NODELIST", "")
    hosts = (host,) if nodes in ("", host) else _slurm_host_names(nodes)
    step = environ.get("SLURM_STEP_ID")
    return BatchJob(id=job, step=step, host=host, hosts=hosts)


def _slurm_host_names(nodes: str) -> tuple[str, ...]:
    """Expand a list such as ``n[1-3,7]``, as Slurm itself does; empty if that fails."""
    # The recorder of any other job does not need it.
    import subprocess  # noqa: PLC0415

    try:
        found = subprocess.run(
            ["scontrol", "show", "hostnames", nodes],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SLURM_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(found.stdout.split())


def current_launch(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Return this process's rank in a job; ``None`` if the job has only this process.

    If one launcher started another, for example Slurm torchrun, the outer one names the job and
    the inner one the rank.

    Example:
        >>> launch = current_launch({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4",
        ...     "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "r"})
        >>> launch.launcher, launch.rank, launch.local_rank, launch.world_size
        ('torchrun', 3, 1, 4)
        >>> current_launch({"SLURM_JOB_ID": "7"}) is None  # in sbatch's script, without srun
        True
    """
    found = [_launch(launcher, environ) for launcher in _VARIABLES]
    if environ is os.environ and (job := _ray_job()) is not None:
        # Other variables may be those of the process that started Ray on this host.
        in_ray = next((one for one in found if one and one.launcher == "torchrun"), None)
        found = [Launch(launcher="ray", job=job), in_ray]
    several = [launch for launch in found if launch is not None and launch.world_size != 1]
    if not several:
        return None
    outer, inner = several[0], several[-1]
    stated = {name: value for name, value in inner.to_json().items() if value is not None}
    named = {"launcher": outer.launcher, "job": outer.job, "agent": outer.agent}
    return Launch(**(outer.to_json() | stated | named))


def _ray_job() -> str | None:
    """Identify the job of Ray that this process is the driver or a worker of."""
    ray = sys.modules.get("ray")
    # Another module of this name, or one that is still being imported, has no such functions.
    with contextlib.suppress(AttributeError, RuntimeError):
        if ray is not None and ray.is_initialized():
            context = ray.get_runtime_context()
            return f"{context.gcs_address} {context.get_job_id()}"
    return None


def _launch(launcher: str, environ: Mapping[str, str]) -> Launch | None:
    variables = _VARIABLES[launcher]
    if not all(name in environ for name in variables["needed"].split()):
        return None
    numbers = {
        field: _number(environ, *names.split())
        for field, names in variables.items()
        if field != "needed"
    }
    if launcher == "pmix" and ("OMPI_COMM_WORLD_RANK" in environ or "SLURM_STEP_ID" in environ):
        # Open MPI and Slurm, which may use PMIx, state more themselves.
        return None
    if launcher == "slurm":
        numbers["world_size"] = numbers["world_size"] or 1
    if launcher == "torchrun" and (
        numbers["world_size"] is None or numbers["rank"] is numbers["local_rank"] is None
    ):
        return None
    names = _JOB_NAMES[launcher]
    if launcher in ("slurm", "torchrun"):
        job = " ".join(environ.get(name, "") for name in names)
        agent = _torch_agent(environ) if launcher == "torchrun" else None
    else:
        job = next((environ[name] for name in names if environ.get(name)), "")
        agent = None if job else _parent()
    return Launch(launcher=launcher, job=job, agent=agent, **numbers)


def _torch_agent(environ: Mapping[str, str]) -> str | None:
    """Return the temporary directory that torchrun makes each time it is started.

    Without it, processes left by a killed torchrun would belong to the job of the next.
    """
    error_file = environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file is None or environ.get("TORCHELASTIC_RUN_ID") != NO_NAME:
        return None
    # <directory>/attempt_<number>/<local rank>/error.json
    return str(Path(error_file).parent.parent.parent)


def _number(environ: Mapping[str, str], *names: str) -> int | None:
    """Return the first of these variables that is set, if it is a number."""
    text = next((environ[name] for name in names if name in environ), "")
    return int(text) if text.isdecimal() else None


def _parent() -> str:
    """Identify the launcher on this host by its pid and start time."""
    pid = os.getppid()
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = ""
    return f"{pid} {started}"


@contextlib.contextmanager
def job_file(
    launch: Launch, sensors: Sequence[str] | None, interval_s: float | None
) -> Iterator[Path]:
    """Lock the file that names the recording of a job's processes on this host.

    Only the process that has the lock may start the job's recorder; the kernel releases it when the
    process exits. The file may be trusted only if a recorder answers, so stale files are harmless.

    Raises:
        RecorderError: Another process has had the lock for too long.
        OSError: The file cannot be made.
    """
    # OpenSSL takes 4 MB, which the recorder does not need.
    import hashlib  # noqa: PLC0415

    parts = (
        boot_id(),
        host_name(),
        launch.launcher,
        launch.job,
        launch.agent,
        sensors if sensors is None else list(sensors),
        os.environ.get("JOULELAB_SENSORS", "") if sensors is None else "",
        interval_s,
    )
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    path = runtime_directory() / f"{key}.job"
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _lock(descriptor, deadline_s) and _is_same_file(path, descriptor):
                yield path
                return
        finally:
            # Closing it is not enough: a child that was forked in between has it open as well.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        if time.monotonic() > deadline_s:
            raise RecorderError("another process of the job has locked out the others")


def _lock(descriptor: int, deadline_s: float) -> bool:
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Report whether a path still names the file that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
