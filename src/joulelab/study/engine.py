"""The port to engines, which place shares of a study on hosts; and this host as an engine."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from typing import Protocol

from joulelab.study.plan import Plan
from joulelab.study.share import Report, Share, StartWorker, run_share
from joulelab.study.store import StudyStore
from joulelab.study.worker import Json, WorkerProcess


class Engine(Protocol):
    """Places shares on hosts, one at a time on each, and passes on what becomes of them."""

    name: str  # Of the command line.

    def places(self) -> int:
        """Return how many shares can run at the same time; 0 if no host is left."""

    def start(self, share: Share) -> None:
        """Place a share, or have it wait for a host."""

    def reports(self, on_phase: Callable[[Json], None]) -> Iterator[Report]:
        """Yield what was reported, after a moment if that is nothing.

        Every share ends with exactly one ``ended``. Reports of a share may still follow it, for
        example from a host that was thought to be dead.

        Args:
            on_phase: Called with the phases that cells begin, where the engine sees them.
        """

    def exclude(self, host: str) -> None:
        """Place no more shares on a host."""

    def close(self) -> Iterator[Report]:
        """End all shares, and yield what they reported until then."""


class LocalEngine:
    """This host. It runs a share while its reports are read.

    Args:
        store: Directory of the study.
        plan: The plan.
        start_worker: Starts a worker that logs to a file.
    """

    name = "local"

    def __init__(
        self, store: StudyStore, plan: Plan, start_worker: StartWorker = WorkerProcess
    ) -> None:
        self._store, self._plan, self._start_worker = store, plan, start_worker
        self._share: Share | None = None
        self._running: Iterator[Report] = iter(())
        self._places = 1

    def places(self) -> int:
        """Return 1, or 0 after :meth:`exclude`."""
        return self._places

    def start(self, share: Share) -> None:
        """Run it when reports are read."""
        self._share = share

    def reports(self, on_phase: Callable[[Json], None]) -> Iterator[Report]:
        """Run the share, and yield its reports."""
        if self._share is None:
            return iter(())
        self._running = run_share(
            self._store,
            self._plan,
            self._share,
            host=platform.node(),
            start_worker=self._start_worker,
            on_phase=on_phase,
        )
        return self._running

    def exclude(self, host: str) -> None:
        """Run no more shares."""
        self._places = 0

    def close(self) -> Iterator[Report]:
        """Kill the worker."""
        getattr(self._running, "close", lambda: None)()
        return iter(())
