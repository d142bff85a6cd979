"""Choose an engine by its name."""

from __future__ import annotations

from collections.abc import Callable

from joulelab.study.engine import Engine, LocalEngine
from joulelab.study.plan import Plan
from joulelab.study.store import StudyStore


def engine_named(name: str) -> Callable[[StudyStore, Plan], Engine]:
    """Return what makes the engine of that name: ``local``, ``slurm`` or ``ray``."""
    if name == "slurm":
        from joulelab.fleet.slurm import SlurmEngine  # noqa: PLC0415

        return SlurmEngine
    if name == "ray":
        from joulelab.fleet.ray_cluster import RayEngine  # noqa: PLC0415

        return RayEngine
    return LocalEngine
