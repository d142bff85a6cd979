"""Which experiment trackers get the values of a run.

The trackers are above the packages that measure, which reach them here and import them only if
there is one.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from joulelab.errors import StoreError
from joulelab.recording.launcher import current_launch
from joulelab.runs import name_of, new_run_id
from joulelab.storage import home, make_private_directories

if TYPE_CHECKING:
    from joulelab.energy.estimator import EnergyEstimator
    from joulelab.recording.trace import Trace
    from joulelab.runs.record import Run

AUTO = "auto"
"""The trackers in which a run is active."""
NONE = "none"
ENVIRONMENT = "JOULELAB_TRACKER"
"""Takes the place of :data:`AUTO`."""
WITH_ACTIVE_RUNS = ("mlflow", "wandb")
"""Packages that have an active run, once they are imported."""


class Tracking(Protocol):
    """The trackers of one run."""

    def attach(self) -> None:
        """Note which of the trackers' runs are active on this thread; asks no server."""

    def environment(self, run_id: str) -> dict[str, str]:
        """Return variables by which the runs that a command begins are found at its end."""

    def finish(self, run: Run, trace: Trace | None, estimator: EnergyEstimator | None) -> list[str]:
        """Log a finished run, and return in one line each what was not logged. Never raises."""


def start_tracking(choice: Any) -> Tracking | None:
    """Find the trackers that the user chose; ``None`` if there is none.

    Args:
        choice: ``"auto"``, names such as ``"mlflow"``, trackers, a list of these, or ``None``.

    Raises:
        UserError: There is no such tracker, or it is not installed.
    """
    chosen = [choice] if isinstance(choice, str) or not isinstance(choice, Sequence) else [*choice]
    if AUTO in chosen and ENVIRONMENT in os.environ:
        chosen = os.environ[ENVIRONMENT].split(",")
    chosen = [one for one in chosen if one not in (None, NONE, "")]
    if not chosen or (chosen == [AUTO] and sys.modules.keys().isdisjoint(WITH_ACTIVE_RUNS)):
        return None
    found: Tracking | None = importlib.import_module("joulelab.integrations.trackers").start(chosen)
    return found


def directory_to_save() -> Path | None:
    """Return a new directory among the saved runs, for the record of this program.

    ``None`` if they cannot be written to, or in a job of several processes, which share a recorder.
    """
    with suppress(OSError, StoreError):
        runs = home() / "runs"
        make_private_directories(runs)
        if os.access(runs, os.W_OK) and current_launch() is None:
            return runs / new_run_id(name_of(sys.orig_argv))
    return None
