"""Find the trackers of a run, and log it to them without ever disturbing the program."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from joulelab.errors import UserError, nearest
from joulelab.format import shorten
from joulelab.integrations.trackers.mlflow_tracker import MlflowTracker
from joulelab.integrations.trackers.tensorboard_tracker import TensorboardTracker
from joulelab.integrations.trackers.tracked_run import TrackedRun
from joulelab.integrations.trackers.wandb_tracker import WandbTracker
from joulelab.recording.launcher import current_launch
from joulelab.recording.trace_format import RUN_FILE
from joulelab.runs.tracker_choice import AUTO, WITH_ACTIVE_RUNS

if TYPE_CHECKING:
    import os

    from joulelab.energy.estimator import EnergyEstimator
    from joulelab.recording.trace import Trace
    from joulelab.runs.record import Run


@runtime_checkable
class Tracker(Protocol):
    """Where runs are tracked. Its package is imported when something is logged."""

    name: str  # Name for people.
    package: str  # Package that must be installed.

    def attach(self) -> bool:
        """Note the tracker's run that is active on this thread; return whether there is one."""

    def environment(self, run_id: str) -> dict[str, str]:
        """Return variables by which the run that a command begins is found at its end."""

    def log(self, tracked: TrackedRun) -> None:
        """Log a finished run, on any thread. Raises whatever goes wrong."""


TRACKERS: Mapping[str, Callable[[], Tracker]] = {
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
    "tensorboard": TensorboardTracker,
}
"""Trackers by the names of their packages."""
OF_LOGGERS: Mapping[str, Callable[[Any], Tracker]] = {
    "MLFlowLogger": lambda logger: MlflowTracker(lambda: (logger.experiment, logger.run_id)),
    "WandbLogger": lambda logger: WandbTracker(lambda: logger.experiment),
    "TensorBoardLogger": lambda logger: TensorboardTracker(lambda: logger.log_dir),
    "MLflowCallback": lambda _: MlflowTracker(),
    "WandbCallback": lambda _: WandbTracker(),
    "TensorBoardCallback": lambda callback: TensorboardTracker(lambda: callback.tb_writer.log_dir),
}
"""Trackers of Lightning's loggers and Transformers' callbacks, which log to the active run."""
DEADLINE_S = 30.0
"""Longest time that the end of a run waits for its trackers, after the report page is made."""
PAGE_DEADLINE_S = 60.0
LONGEST_REASON = 200
"""Characters of a tracker's error in a warning."""


class Tracking:
    """The trackers of one run; see :class:`joulelab.runs.tracker_choice.Tracking`."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def attach(self) -> None:
        """Note which of the trackers' runs are active on this thread; asks no server."""
        if _is_first_process():
            for tracker in self.trackers:
                with suppress(Exception):
                    tracker.attach()

    def environment(self, run_id: str) -> dict[str, str]:
        """Return variables by which the runs that a command begins are found at its end."""
        variables: dict[str, str] = {}
        for tracker in self.trackers:
            variables |= tracker.environment(run_id)
        return variables

    def finish(self, run: Run, trace: Trace | None, estimator: EnergyEstimator | None) -> list[str]:
        """Log a finished run, and return in one line each what was not logged. Never raises."""
        try:
            return self._finish(run, trace, estimator) if _is_first_process() else []
        except Exception as error:  # noqa: BLE001  (the program goes on, whatever it is)
            return [f"no tracker has the energy of this run: {error!r}"]

    def _finish(
        self, run: Run, trace: Trace | None, estimator: EnergyEstimator | None
    ) -> list[str]:
        from joulelab.integrations.trackers.record_values import tracked_run  # noqa: PLC0415

        self.attach()
        page = _begin_page(run.directory)
        tracked = tracked_run(run, trace, estimator, page)
        waiting, failed = {one.name: one for one in self.trackers}, {}

        def log() -> None:
            for tracker in self.trackers:
                try:
                    tracker.log(tracked)
                except BaseException as error:  # noqa: BLE001  (it may call sys.exit)
                    failed[tracker.name] = _reason(error)
                del waiting[tracker.name]

        thread = threading.Thread(target=log, name="joulelab-trackers", daemon=True)
        thread.start()
        page()
        thread.join(DEADLINE_S)
        failed |= dict.fromkeys(list(waiting), f"it did not answer within {DEADLINE_S:g} s")
        return [
            f"{name} does not have the energy of this run: {why}; the record has it, "
            f"and joulelab.integrations.trackers.log_run logs it later"
            for name, why in failed.items()
        ]


def start(chosen: Iterable[Any]) -> Tracking | None:
    """Find the chosen trackers; ``None`` if there is none.

    Raises:
        UserError: There is no such tracker, or it is not installed.
    """
    trackers: dict[str, Tracker] = {}
    for one in chosen:
        for tracker in _active() if one == AUTO else [_open(one)]:
            trackers.setdefault(tracker.package, tracker)
    return Tracking(list(trackers.values())) if trackers else None


def log_run(name_or_path: str | os.PathLike[str], tracker: Any) -> None:
    """Log a saved run to a tracker, for example one that could not be reached when the run ended.

    It goes to the tracker's run that has this run's id, to the active one, or to a new one.

    Args:
        name_or_path: What :func:`joulelab.open_run` takes.
        tracker: Name of a tracker, for example ``"mlflow"``, or a tracker.

    Raises:
        UserError: There is no such run or tracker, or the record is damaged.
        Exception: Whatever the tracker raises.
    """
    from joulelab.energy.estimator import EnergyEstimator  # noqa: PLC0415
    from joulelab.integrations.trackers.record_values import tracked_run  # noqa: PLC0415
    from joulelab.runs.selection import open_run  # noqa: PLC0415
    from joulelab.runs.span_tree import run_trace  # noqa: PLC0415

    opened = _open(tracker)
    run = open_run(name_or_path)
    trace = run_trace(run)
    estimator = None if trace is None else EnergyEstimator(trace, run.baseline)
    opened.attach()
    opened.log(tracked_run(run, trace, estimator, _begin_page(run.directory)))


def trackers_of(loggers: Iterable[Any]) -> list[Tracker]:
    """Return the trackers that a framework's loggers or callbacks log to."""
    found = []
    for logger in loggers:
        names = [one.__name__ for one in type(logger).__mro__ if one.__name__ in OF_LOGGERS]
        found += [OF_LOGGERS[name](logger) for name in names[:1]]
    return found


def _active() -> Iterator[Tracker]:
    for package in WITH_ACTIVE_RUNS:
        with suppress(Exception):
            if package in sys.modules and (tracker := _open(package)).attach():
                yield tracker


def _open(chosen: Any) -> Tracker:
    """Return a tracker by its name, which may have a directory after a colon."""
    if not isinstance(chosen, str):
        if not isinstance(chosen, Tracker):
            raise UserError(f"{chosen!r} is not a tracker", hint=f"name one: {', '.join(TRACKERS)}")
        return chosen
    name, _, directory = chosen.partition(":")
    if name not in TRACKERS:
        raise UserError(f"there is no tracker {name!r}", hint=nearest(name, TRACKERS))
    if directory and name != "tensorboard":
        why, hint = "only tensorboard has a directory", f"write {name}"
        raise UserError(f"{chosen!r} is not a tracker", why=why, hint=hint)
    if importlib.util.find_spec(name) is None:
        hint = f"run pip install {name} or pip install 'joulelab[trackers]'"
        raise UserError(f"the tracker {name} is not installed", hint=hint)
    return TensorboardTracker(directory) if directory else TRACKERS[name]()


def _is_first_process() -> bool:
    """Report whether this process logs: of a job, only the first one does."""
    launch = current_launch()
    if launch is None:
        return True
    return (launch.local_rank if launch.rank is None else launch.rank) in (None, 0)


def _reason(error: BaseException) -> str:
    text = shorten(str(error), LONGEST_REASON)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _begin_page(directory: Path) -> Callable[[], bytes | None]:
    """Begin to make the report page, and return a function that waits for it."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="joulelab-page")
    pending = pool.submit(_page, directory)
    pool.shutdown(wait=False)
    return pending.result


def _page(directory: Path) -> bytes | None:
    """Make the report page of a saved run; ``None`` if that is not possible.

    It is made in a process of its own: its packages are large, and the program's may be other ones.
    """
    with suppress(Exception), tempfile.TemporaryDirectory(prefix="joulelab-") as folder:
        if (directory / RUN_FILE).is_file() and importlib.util.find_spec("altair"):
            page = Path(folder, "report.html")
            words = ["-m", "joulelab", "report", str(directory), "--out", str(page)]
            subprocess.run(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PAGE_DEADLINE_S,
                check=True,
            )
            return page.read_bytes()
    return None
