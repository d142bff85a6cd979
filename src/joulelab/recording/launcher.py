"""Which of many: what a launcher tells a process of the job that it started it for.

Launchers tell it in environment variables. Those of torchrun are also set by Lightning, Accelerate,
DeepSpeed and the PyTorchJob of Kubernetes, since ``init_method="env://"`` of ``torch.distributed``
reads them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HOST = "JOULELAB_HOST"
"""Another name for this host, where the system's own is not its alone."""
NO_NAME = "none"
"""torchrun's name for a job that was given none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A process's place in the job that a launcher started.

    Attributes:
        launcher: ``"torchrun"``, ``"slurm"``, ``"openmpi"``, ``"pmix"`` or ``"mpich"``.
        job: Names the job among all of this launcher, on every host alike.
        agent: Tells it from others of that name on this host, where the launcher gives none of its
            own; ``None`` where it does.
        rank: Among all processes of the job; ``None`` where the launcher does not tell.
        local_rank: Among those on this host.
        world_size: How many processes the job has.
        node: This host's number among those of the job.
        nodes: How many hosts the job has.
    """

    launcher: str
    job: str
    agent: str | None = None
    rank: int | None = None
    local_rank: int | None = None
    world_size: int | None = None
    node: int | None = None
    nodes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; ``Launch(**data)`` is its inverse."""
        return asdict(self)


def host_name(environ: Mapping[str, str] = os.environ) -> str:
    """What this host is called: ``$JOULELAB_HOST``, or as the system says."""
    return environ.get(HOST) or os.uname().nodename


def current_launch(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """This process's place in a job of several processes; ``None`` where it was started alone.

    Where one launcher started another, as Slurm does torchrun, the outer one names the job and
    the inner one the rank. A job of one process is none: its recorder is its own.

    Example:
        >>> launch = current_launch({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4",
        ...     "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "r"})
        >>> launch.launcher, launch.rank, launch.local_rank, launch.world_size
        ('torchrun', 3, 1, 4)
        >>> current_launch({"SLURM_JOB_ID": "7"}) is None  # within sbatch, not started by srun
        True
    """
    found = [of(environ) for of in (_slurm, _openmpi, _pmix, _mpich, _torch)]
    several = [launch for launch in found if launch is not None and launch.world_size != 1]
    if not several:
        return None
    outer, inner = several[0], several[-1]
    told = {name: value for name, value in inner.to_json().items() if value is not None}
    named = {"launcher": outer.launcher, "job": outer.job, "agent": outer.agent}
    return Launch(**(outer.to_json() | told | named))


def _torch(environ: Mapping[str, str]) -> Launch | None:
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    rank, local_rank = (_number(environ, name) for name in ("RANK", "LOCAL_RANK"))
    world_size = _number(environ, "WORLD_SIZE")
    told = "MASTER_ADDR" in environ and "MASTER_PORT" in environ and world_size is not None
    if not told or (rank is None and local_rank is None):
        return None
    return Launch(
        launcher="torchrun",
        job=" ".join(environ.get(name, "") for name in names),
        agent=_torch_agent(environ),
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        node=_number(environ, "GROUP_RANK", "NODE_RANK"),
        nodes=_number(environ, "GROUP_WORLD_SIZE"),
    )


def _torch_agent(environ: Mapping[str, str]) -> str | None:
    """The temporary directory that torchrun makes anew each time that it is started.

    Without it the processes that a killed torchrun left would be of the next one's job.
    """
    told = environ.get("TORCHELASTIC_ERROR_FILE")
    if told is None or environ.get("TORCHELASTIC_RUN_ID") != NO_NAME:
        return None
    # <directory>/attempt_<number>/<local rank>/error.json
    return str(Path(told).parent.parent.parent)


def _slurm(environ: Mapping[str, str]) -> Launch | None:
    """A step that srun started. The script of sbatch is no step of the job's processes."""
    names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    if "SLURM_JOB_ID" not in environ or "SLURM_STEP_ID" not in environ:
        return None
    return Launch(
        launcher="slurm",
        job=" ".join(environ.get(name, "") for name in names),
        rank=_number(environ, "SLURM_PROCID"),
        local_rank=_number(environ, "SLURM_LOCALID"),
        world_size=_number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") or 1,
        node=_number(environ, "SLURM_NODEID"),
        nodes=_number(environ, "SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
    )


def _openmpi(environ: Mapping[str, str]) -> Launch | None:
    if "OMPI_COMM_WORLD_RANK" not in environ:
        return None
    names = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid")
    return Launch(
        launcher="openmpi",
        job=next((environ[name] for name in names if name in environ), ""),
        agent=None if any(name in environ for name in names) else _parent(),
        rank=_number(environ, "OMPI_COMM_WORLD_RANK"),
        local_rank=_number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"),
        world_size=_number(environ, "OMPI_COMM_WORLD_SIZE"),
    )


def _pmix(environ: Mapping[str, str]) -> Launch | None:
    """Another launcher with PMIx; Open MPI and Slurm, which may use it, tell more themselves."""
    if "OMPI_COMM_WORLD_RANK" in environ or "SLURM_STEP_ID" in environ:
        return None
    if "PMIX_RANK" not in environ or "PMIX_NAMESPACE" not in environ:
        return None
    return Launch(
        launcher="pmix", job=environ["PMIX_NAMESPACE"], rank=_number(environ, "PMIX_RANK")
    )


def _mpich(environ: Mapping[str, str]) -> Launch | None:
    """MPICH and those made of it, as Intel MPI and MVAPICH."""
    if "PMI_RANK" not in environ or "PMI_SIZE" not in environ:
        return None
    name = environ.get("PMI_JOBID") or environ.get("PMI_PORT") or ""
    return Launch(
        launcher="mpich",
        job=name,
        agent=None if name else _parent(),
        rank=_number(environ, "PMI_RANK"),
        local_rank=_number(environ, "MPI_LOCALRANKID"),
        world_size=_number(environ, "PMI_SIZE"),
    )


def _number(environ: Mapping[str, str], *names: str) -> int | None:
    """The first of these that is set, if it is a number."""
    text = next((environ[name] for name in names if name in environ), "")
    return int(text) if text.isdecimal() else None


def _parent() -> str:
    """The launcher's process on this host, told from any other that had its number."""
    pid = os.getppid()
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = ""
    return f"{pid} {started}"
