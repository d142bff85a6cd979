"""Which of the GPUs that were recorded are a job's: those that its processes may and do use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from joulelab.recording.trace import Trace

NOT_THE_JOBS = "no process of the job uses it"
MEND = "let the job's processes on a host see each other's GPUs"


@dataclass(slots=True)
class _Process:
    """A process of the job, as the recording knows it.

    Attributes:
        rank: Its rank, for words.
        visible: Components that it may use, as CUDA counts them; ``None``: not known.
        gpus_on_host: How many Slurm gave the job on this host; 0 where it does not tell.
        contexts: CUDA's index and UUID of each GPU on which it has, or had, a context.
        present: It has not left the recording.
    """

    rank: int | None
    visible: list[str] | None
    gpus_on_host: int
    contexts: dict[int, str | None] = field(default_factory=dict)
    present: bool = True


def foreign_gpus(trace: Trace) -> dict[str, str]:
    """Why GPUs are not counted: those recorded that are not the job's, and those not recorded.

    A process uses the GPUs on which PyTorch tells of a CUDA context. One that tells of none may use
    all that it sees, as long as it is there, or as long as no other has told.

    Args:
        trace: With the events ``joined``, ``cuda`` and ``left`` of the processes. Without a job in
            it nothing is left out.

    Returns:
        The reason by component; by UUID for a GPU that the recorder did not see, as far as it is
        known.
    """
    recorded: Mapping[str, list[str]] = trace.header.get("gpus") or {}
    processes = _processes(trace) if recorded else []
    if not processes:
        return {}
    components = {_bare(uuid): name for name, uuids in recorded.items() for uuid in uuids}
    told = {process.rank for process in processes if process.contexts}
    used: set[str] = set()
    reasons: dict[str, str] = {}
    for process in processes:
        for index, uuid in process.contexts.items():
            component = _component(components, process, index, uuid)
            if component is None:
                reasons[f"gpu:{uuid or index}"] = (
                    f"rank {process.rank} uses it, and the recorder, which another process of the "
                    f"job started, does not see it; {MEND}"
                )
            else:
                used.add(component)
        # A program that wraps a process of the job is of its rank.
        silent = process.rank not in told and not process.contexts
        if silent and (process.present or not told):
            used.update(recorded if process.visible is None else process.visible)
    allotted = max(process.gpus_on_host for process in processes)
    if allotted > len(recorded) and not reasons:
        seen = f"{allotted} GPUs on this host and the recorder sees {len(recorded)}"
        reasons["gpu:unseen"] = f"the job has {seen}; {MEND}"
    return reasons | {name: NOT_THE_JOBS for name in recorded if name not in used}


def _processes(trace: Trace) -> list[_Process]:
    """The job's processes, in the order in which they joined."""
    found: list[_Process] = []
    latest: dict[int, _Process] = {}
    for event in trace.events:
        kind, pid = event.get("event"), event.get("pid")
        if kind == "joined" and event.get("launch"):
            allotted = event.get("gpus_on_host") or ""
            on_host = int(allotted) if allotted.isdecimal() else 0
            process = _Process(_rank(event), event.get("gpus"), on_host)
            found.append(process)
            latest[event["pid"]] = process
        elif pid in latest and kind == "cuda":
            latest[pid].contexts |= dict(event["gpus"])
        elif pid in latest and kind == "left":
            latest[pid].present = False
    return found


def _rank(event: Mapping[str, Any]) -> int | None:
    """Its rank, or else the one on this host, where the launcher tells no other."""
    launch = event["launch"]
    rank = launch.get("local_rank") if launch.get("rank") is None else launch["rank"]
    return None if rank is None else int(rank)


def _component(
    components: Mapping[str, str], process: _Process, index: int, uuid: str | None
) -> str | None:
    """The component of a GPU by its UUID, or, where PyTorch has none for it, by CUDA's index."""
    if uuid is not None:
        return components.get(_bare(uuid))
    visible = process.visible or []
    return visible[index] if index < len(visible) else None


def _bare(uuid: str) -> str:
    """Its digits alone: NVML and PyTorch write what is about them in different ways.

    Example:
        >>> _bare("GPU-1A2b-3c") == _bare("1a2b3c")
        True
    """
    return uuid.removeprefix("GPU-").removeprefix("MIG-").replace("-", "").lower()
