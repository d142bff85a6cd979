"""The base class of the callbacks of all frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from joulelab.forecast.loop import Tuning
from joulelab.integrations.fit import Fit
from joulelab.integrations.hook_spans import HookSpans
from joulelab.integrations.metrics import Metrics, in_wh
from joulelab.integrations.trackers import trackers_of
from joulelab.loops import print_summary
from joulelab.meter import Meter
from joulelab.recording.launcher import current_launch
from joulelab.runs.tracker_choice import AUTO, start_tracking


class EnergyHooks:
    """A callback that measures what its framework does.

    As a context manager it ends what a failure of the framework left open.

    Args:
        meter: Meter to use. Default: a new one for each call of the framework.
        steps: Whether to record a span for each step, which takes about 0.5 kB of memory.
        forecast: Whether to forecast the fit; needs SciPy.
        wh: Whether to log gross energies in Wh, too.
        quiet: Whether to leave out the summary at the end of a fit, and the result of tuning.
        tune: Lower the energy of a fit while it runs: a :class:`joulelab.Tune`.
        tracker: Experiment trackers that get the record, as :class:`joulelab.Meter` takes them,
            unless a meter is given. Default: those of the framework's loggers, and those in which a
            run is active.

    Attributes:
        history: All logged metrics, one dictionary per epoch and stage.
    """

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        steps: bool = True,
        forecast: bool = True,
        wh: bool = False,
        quiet: bool = False,
        tune: Tuning | None = None,
        tracker: Any = AUTO,
    ) -> None:
        super().__init__()
        if tracker != AUTO:
            start_tracking(tracker)  # It would only be a warning when the meter is opened.
        self._spans = HookSpans(meter)
        self._spans.trackers = self._tracker = tracker
        self._steps, self._forecast, self._wh, self._quiet = steps, forecast, wh, quiet
        self._tune = tune
        self._fit: Fit | None = None
        self.history: list[Metrics] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def meter(self) -> Meter | None:
        """Meter of the framework's latest call; ``None`` if nothing was measured."""
        return self._spans.meter

    def close(self) -> None:
        """End all open spans and the recording."""
        if self._fit is not None:
            self._fit.end_tuning()
        self._fit = None
        self._spans.close()

    def _begin_fit(self, *, logs: bool = True, **ends: float) -> Fit:
        """Begin a fit, which ends after a number of epochs or steps if they are known."""
        return Fit(self._spans, logs=logs, tune=self._tune, quiet=self._quiet, **ends)

    def _begin_call(self) -> None:
        """End what a failed call of the framework left open, before the next one begins."""
        self._spans.end_at_last_hook()
        self.close()

    def _has_fit(self, *, logs: bool = True) -> bool:
        """Report whether there is a fit. One that did not come to train has a total, too."""
        if self._fit is None and self._spans.find("fit") is not None:
            self._fit = self._begin_fit(logs=logs)
        return self._fit is not None

    def _end_fit(self, *, failed: bool = False) -> Metrics:
        if self.meter is not None:
            self.meter.attach_trackers()  # Frameworks end a tracker's run with the fit.
        fit, self._fit = self._fit, None
        finished = None if fit is None else fit.end(failed=failed)
        if finished is None:
            return {}
        if not self._quiet:
            self._show(finished.lines)
        return finished.metrics

    def _track_with(self, loggers: Iterable[Any]) -> None:
        """Let the next meter's record go where a framework's loggers log, unless one was chosen."""
        if self._tracker == AUTO:
            self._spans.trackers = [*trackers_of(loggers), AUTO]

    def _show(self, lines: Sequence[str]) -> None:
        print_summary(lines)

    def _in_units(self, row: Metrics) -> Metrics:
        return row | in_wh(row) if self._wh else row


def should_record(*, first: bool) -> bool:
    """Report whether this process records spans.

    The host's first process does, and any process of a launched job.

    Processes of a job share one recorder per host. Others would start one each.
    """
    return first or current_launch() is not None
