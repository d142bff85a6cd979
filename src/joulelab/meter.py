"""The meter: measures a program, or parts of it."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from joulelab.energy.baseline import Baseline
from joulelab.energy.data_exchange import DataExchange, data_exchanged
from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator, mean_reading, totals_of
from joulelab.energy.idle import IdleMeasurement, unchecked_since_ns
from joulelab.errors import TraceError
from joulelab.machine import describe
from joulelab.recording.client import RecorderClient, RecorderOptions
from joulelab.recording.device_clock import CudaContexts
from joulelab.recording.launcher import current_launch
from joulelab.recording.recorder_choice import open_recorder
from joulelab.recording.span_columns import Windows
from joulelab.recording.spans import Span, SpanLog, innermost_log
from joulelab.recording.trace import Trace, TraceReader, missing_trace
from joulelab.recording.trace_spans import Window
from joulelab.runs.saved_baseline import load_baseline
from joulelab.runs.tracker_choice import AUTO, directory_to_save, start_tracking
from joulelab.sensors.sensor import Quantity

if TYPE_CHECKING:
    from joulelab.forecast.profile import Forecast
    from joulelab.sensors.simulated import SimulatedMachine

T = TypeVar("T")

IDLE_SPAN = "idle"
METRICS_SPAN = "metrics"
POLL_S, POLL_SHARE = 1.0, 0.01
"""Time between two checks of a machine that is to become quiet, or more: this share of the time
waited, so that the checks do not keep the machine busy. Processes are scanned each second."""


class Meter:
    """Measures a program, or parts of it.

    Beginning and ending a span only notes the time; energies are calculated on request. A process
    of its own, the recorder, reads the sensors and ends with this one. If it dies, the program goes
    on, and energies state what is missing.

    Under ``joulelab run`` the meter joins the running recorder, also if it has a directory, and
    the processes of one job (of torchrun, Slurm or MPI) share one on each host.

    Args:
        sensors: What to read: names such as ``["gpu", "cpu"]``, or a
            :class:`~joulelab.sensors.simulated.SimulatedMachine`. Default: everything that this
            process may use (GPUs by ``CUDA_VISIBLE_DEVICES``).
        interval_s: Read every sensor at least this often. Default: each sensor's own interval.
        baseline: Idle power, for net energies: a :class:`~joulelab.energy.baseline.Baseline`, or
            a number of seconds (T_m) for which the program pauses while idle power is measured.
            Default: what ``joulelab idle`` saved for this machine, if anything.
        directory: Save the run here: its trace, and ``run.json`` when the meter closes, so that
            it can be watched, compared, forecast and added up like any other run. If the directory
            has a recording already, the run is saved next to it (``directory-2`` and so on) with a
            warning. In a job of several processes the trace is in ``directory/<host>/<number>``.
            Under ``joulelab run`` the directory gets links to the trace of the whole command.
            Default: a temporary directory until the meter closes.
        own_recorder: Never share a recorder.
        recorder: A recorder that was opened before; nothing is saved then.
        record: Whether to write ``run.json``.
        tracker: Experiment trackers that get the finished record: names such as ``"mlflow"``,
            ``"wandb"`` or ``"tensorboard:DIRECTORY"``. Without a directory, the run is then saved
            among those of ``joulelab runs``. Default: the trackers in which a run is active now;
            ``None`` for none.

    Attributes:
        directory: Where the trace is.
        baseline: Idle power, if it is known.

    Raises:
        UserError: A requested sensor or tracker does not exist.
        RecorderError: The recorder did not start.

    Example:
        >>> from joulelab.sensors.simulated import SimulatedMachine
        >>> with Meter(sensors=SimulatedMachine.default()) as meter:
        ...     with meter.span("epoch", index=3) as span:
        ...         total = sum(range(1000000))
        ...     print(sorted(span.energy.components))
        ['cpu:0', 'dram:0', 'gpu:0']
    """

    def __init__(
        self,
        sensors: Sequence[str] | SimulatedMachine | None = None,
        interval_s: float | None = None,
        baseline: Baseline | float | None = None,
        directory: str | os.PathLike[str] | None = None,
        *,
        own_recorder: bool = False,
        recorder: RecorderClient | None = None,
        record: bool = True,
        tracker: Any = AUTO,
    ) -> None:
        if isinstance(sensors, str):
            sensors = [sensors]
        elif sensors is not None and not isinstance(sensors, Sequence):
            sensors = [sensors.spec()]
        self._options = RecorderOptions(sensors, interval_s)
        can_track = record and recorder is None
        self._tracking = start_tracking(tracker) if can_track else None
        if self._tracking is not None and directory is None:
            directory = directory_to_save()
        self._temporary = directory is None and recorder is None
        self._is_saved = record and directory is not None
        self._error: BaseException | None = None
        if recorder is None:
            path = None if directory is None else Path(directory)
            recorder = open_recorder(path, self._options, own=own_recorder)
        self._recorder = recorder
        self.directory = self._recorder.directory
        self._started_unix_s, self._start_ns = time.time(), time.monotonic_ns()
        self._trace: Trace | None = None
        self._reader: TraceReader | None = None
        self._estimator: EnergyEstimator | None = None
        self._covered_ns = 0
        self._lost: list[str] = []
        self._closed = False
        self._log = SpanLog(
            self._recorder.send_lines,
            lambda span: self.energies([span])[0],
            shared=self.joined,
            more_lines=CudaContexts().lines if self.joined else tuple,
        )
        self.baseline: Baseline | None = None
        if isinstance(baseline, (int, float)):
            self.baseline = self.measure_idle(baseline)
        else:
            self.baseline = load_baseline(describe) if baseline is None else baseline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if not (isinstance(error, SystemExit) and error.code in (None, 0)):
            self._error = error
        self.close()

    def __reduce__(self) -> str:
        raise TypeError(
            "a Meter cannot be sent to another process: open one there; "
            "children that are forked can use their parent's"
        )

    def begin(self, name: str, /, **attributes: Any) -> Span:
        """Begin a span. Its parent is the span that is open in the same thread or asyncio task."""
        return Span(self._log, name, attributes).__enter__()

    def end(self, span: Span) -> None:
        """End a span.

        Raises:
            ValueError: It ended before.
        """
        span.end()

    def span(self, name: str, /, **attributes: Any) -> Span:
        """Make a span around a block: ``with meter.span("epoch", index=3) as span``.

        It ends however the block ends.
        """
        return Span(self._log, name, attributes)

    @property
    def spans(self) -> tuple[Span, ...]:
        """Every span so far, in the order in which they began."""
        return tuple(self._log.spans())

    def spans_named(self, name: str, /, **attributes: Any) -> list[Span]:
        """Return the finished spans of a name that have all these attributes."""
        return [
            span
            for span in self._log.spans(name)
            if span.stop_ns is not None and attributes.items() <= span.attributes.items()
        ]

    def energy(self, name: str, /, **attributes: Any) -> Energy:
        """Add up the energy of the finished spans of a name that have all these attributes.

        Time in several of them counts once: they may be of threads, or within each other.

        Raises:
            ValueError: There is no such span.
        """
        windows = self._windows_named(name, attributes)
        (energy,) = totals_of(self._estimator_until(windows.latest_ns), [windows])
        return energy

    def data_exchanged(self, name: str, /, **attributes: Any) -> DataExchange:
        """Add up what was sent, received, read and written in the finished spans of a name.

        Network interfaces count the bytes of the whole machine, files those of the job's processes.
        Counters are read about once a second, so that the limits of short spans are wide.

        Raises:
            ValueError: There is no such span.
        """
        windows = self._windows_named(name, attributes)
        self._estimator_until(windows.latest_ns)
        assert self._trace is not None
        return data_exchanged(self._trace, windows)

    def energies(self, spans: Sequence[Span | Window]) -> list[Energy]:
        """Return the energy of each span. Waits at most until the sensors have covered them.

        Args:
            spans: Finished spans, or windows of time on CLOCK_MONOTONIC.

        Raises:
            ValueError: One of them is still open.
        """
        windows = Windows.of([_window(span) for span in spans])
        return self._estimator_until(windows.latest_ns).energies(windows) if windows else []

    def mean(self, component: str, quantity: Quantity, spans: Sequence[Span]) -> float:
        """Return the mean of a quantity, for example utilisation, over spans; NaN if unknown."""
        windows = Windows.of([_window(span) for span in spans])
        if windows:
            self._estimator_until(windows.latest_ns)
        return mean_reading(self._trace or missing_trace(""), component, quantity, windows)

    @property
    def trace(self) -> Trace:
        """Every reading so far."""
        self._estimator_until(time.monotonic_ns())
        assert self._trace is not None
        return self._trace

    def measure_idle(
        self,
        duration_s: float,
        wait_s: float = 0.0,
        on_poll: Callable[[IdleMeasurement], None] = lambda _: None,
    ) -> Baseline:
        """Pause the program and add the machine's idle power to the baseline.

        The quietest part of the pause counts (:mod:`joulelab.energy.idle`). If other processes use
        the machine in all of it, the baseline states so, and its uncertainty covers what they may
        have used.

        Args:
            duration_s: Duration of the measurement (the paper's T_m).
            wait_s: Longest time to wait for other processes to become idle.
            on_poll: Called several times with the state of the measurement.
        """
        with self.span(IDLE_SPAN) as span:
            self.pause(duration_s, wait_s, on_poll)
        return self.idle_from(span, duration_s)

    def pause(
        self,
        duration_s: float,
        wait_s: float = 0.0,
        on_poll: Callable[[IdleMeasurement], None] = lambda _: None,
    ) -> None:
        """Pause the program until it was idle on a quiet machine; see :meth:`measure_idle`."""
        start_ns = checked_ns = time.monotonic_ns()
        time.sleep(duration_s)
        while True:
            now_ns = time.monotonic_ns()
            since_ns = unchecked_since_ns(start_ns, checked_ns, now_ns, duration_s)
            measured = IdleMeasurement(self.trace, since_ns, now_ns, duration_s)
            on_poll(measured)
            checked_ns, waited_s = now_ns, (now_ns - start_ns) * 1e-9
            left_s = duration_s + wait_s - waited_s
            if measured.is_quiet or left_s <= 0:
                return
            time.sleep(min(left_s, max(POLL_S, POLL_SHARE * waited_s)))

    def idle_from(self, span: Span, duration_s: float = math.inf) -> Baseline:
        """Add the power of a span in which the program paused to the baseline.

        ``duration_s`` is the duration that was requested, if the span may be longer.
        """
        window = _window(span)
        self._estimator_until(window.stop_ns)
        assert self._trace is not None
        duration_s = min(duration_s, span.duration_s)
        measured = IdleMeasurement(self._trace, window.start_ns, window.stop_ns, duration_s)
        points = self.baseline.points if self.baseline else ()
        self.baseline = Baseline((*points, measured.point()))
        self._estimator = None
        return self.baseline

    def forecast(
        self,
        epochs: float,
        *,
        within: float | None = None,
        steps_per_epoch: int | None = None,
        carbon_intensity_g_per_kwh: float | None = None,
        pue: float = 1.0,
    ) -> Forecast:
        """Forecast the energy and time of a run, from the epochs so far.

        It uses the spans named ``epoch``, the ``step`` spans inside them while few epochs are
        finished, and the spans between epochs, for example ``validate``.

        Args:
            epochs: Number of epochs of the whole run.
            within: Relative half-width of the interval that is narrow enough.
            steps_per_epoch: Allows a forecast before the first epoch is finished.
            carbon_intensity_g_per_kwh: Carbon intensity of the electricity.
            pue: Power usage effectiveness of the site.

        Raises:
            UserError: There is nothing to forecast from yet, or SciPy is not installed.
        """
        from joulelab.forecast.sources import profile_of_trace  # noqa: PLC0415

        return profile_of_trace(self.trace, steps_per_epoch=steps_per_epoch).forecast(
            epochs,
            within=within,
            carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
            pue=pue,
        )

    def epochs(
        self, items: Iterable[T], *, total: int | None = None, **options: Any
    ) -> Iterator[T]:
        """Iterate over the items, each within a span ``epoch``, and forecast the loop.

        The forecast is printed on standard error once it is narrow enough to be useful. It is made
        between epochs and takes at most 0.5 % of the loop's time.

        Args:
            items: For example ``range(100)``.
            total: Number of epochs. Default: the length of ``items``, if it has one.
            **options: Fields of :class:`~joulelab.forecast.loop.EpochOptions`, for example
                ``max_energy_j=1e6``.

        Raises:
            UserError: An option is out of range.
            BudgetError: The next epoch would exceed a budget, and ``on_budget`` is ``"raise"``.
        """
        from joulelab.forecast.loop import EpochOptions, iterate_epochs  # noqa: PLC0415

        if total is None and isinstance(items, Sized):
            total = len(items) or None  # A training that was resumed after its end has none left.
        return iterate_epochs(self, items, EpochOptions(total=total, **options))

    @property
    def alive(self) -> bool:
        """Whether everything is still being recorded."""
        return self._recorder.alive and not self._lost

    @property
    def joined(self) -> bool:
        """Whether other processes may share the recorder: then energies are those of the host."""
        return not self._recorder.private

    @property
    def failure(self) -> str:
        """Why recording ended early, or did not join another recorder; empty if neither."""
        reasons = (self._recorder.not_joined, self._recorder.failure, *self._lost)
        return "; ".join(filter(None, reasons))

    @property
    def recorder_pid(self) -> int:
        """The recorder's process."""
        return self._recorder.pid

    def close(self, covered_ns: int | None = None) -> None:
        """End the recording. Energies remain available.

        A shared recorder continues for the other processes. In a forked child, this passes on the
        child's spans; the recording belongs to its parent.

        Args:
            covered_ns: Read the sensors until this time, CLOCK_MONOTONIC. Default: now.
        """
        if self._closed:
            return
        self._log.finish()
        self._closed = True
        if not self._recorder.owned:
            # A child that was forked while another thread imported something could hang in here.
            return
        covered_ns = time.monotonic_ns() if covered_ns is None else covered_ns
        self._recorder.sync(covered_ns)
        self._estimator = None
        if self._temporary:
            # The recorder removes the directory when it ends.
            self._trace = self._load()
        is_finished = self._recorder.stop(covered_ns)
        if self._trace is None or is_finished or not self._temporary:
            # With the last readings, so that energies are those of the finished trace.
            self._trace = self._load()
        trace = self._trace
        self._check_spans(trace)
        if self._recorder.private and self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
        # Of the processes of a job, the one that started their recorder writes the record.
        is_first = trace.header.get("parent_pid") == os.getpid() or current_launch() is None
        if (self._is_saved and is_first) or self._tracking is not None:
            self._end_record(trace, covered_ns, is_saved=self._is_saved and is_first)

    def _check_spans(self, trace: Trace) -> None:
        """State what the trace lacks, for whatever reason."""
        self._lost += trace.damage
        lost, n = self._log.lost(trace)
        if lost:
            self._lost.append(f"{lost:,} of {n:,} spans are not in the recording")

    def _end_record(self, trace: Trace, stop_ns: int, *, is_saved: bool) -> None:
        """Make the record, write it if it is to be saved, and log it to the trackers."""
        from joulelab.runs.record import meter_record, write_record  # noqa: PLC0415

        try:
            estimator = self._estimator_until(stop_ns)
            run = meter_record(
                self.directory,
                trace,
                estimator,
                started_unix_s=self._started_unix_s,
                start_ns=self._start_ns,
                stop_ns=stop_ns,
                settings=self._options._asdict(),
                error=self._error,
                notes=tuple(filter(None, [self.failure])),
            )
            if is_saved:
                write_record(self.directory, run.to_json())
        except Exception as error:  # noqa: BLE001  (the program goes on, whatever it is)
            warnings.warn(f"the record of this run was not written: {error}", stacklevel=3)
            return
        for text in () if self._tracking is None else self._tracking.finish(run, trace, estimator):
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def attach_trackers(self) -> None:
        """Note which runs of trackers are active on this thread, so that the record goes to them.

        This is necessary only if they end before the meter closes.
        """
        if self._tracking is not None:
            self._tracking.attach()

    def cover(self, t_ns: int) -> None:
        """Bring the trace up to a time, CLOCK_MONOTONIC: its spans, and readings of all sensors.

        It waits for the sensors at most a few seconds, and may be called on any thread.
        """
        self._log.flush(leave_unresolved=0)
        self._recorder.sync(t_ns)

    def add_event(self, kind: str, /, **content: Any) -> None:
        """Add an event of this process to the trace.

        Args:
            kind: What happened, for example ``"tuned"``.
            **content: What JSON can represent.
        """
        times = {"t_ns": time.monotonic_ns(), "pid": os.getpid()}
        self._log.add_event({"event": kind, **times, **content})

    def _windows_named(self, name: str, attributes: dict[str, Any]) -> Windows:
        stored, others = self._log.finished(name, attributes)
        windows = Windows.joined([stored.windows, Windows.of([_window(span) for span in others])])
        if not windows:
            names = sorted(self._log.names())
            if name in names and not attributes:
                raise ValueError(f"span {name!r} is still open")
            wanted = f"{name!r} with {attributes}" if attributes else repr(name)
            raise ValueError(
                f"no finished span named {wanted}; known: {', '.join(names) or 'none'}"
            )
        return windows

    def _estimator_until(self, t_ns: int) -> EnergyEstimator:
        if not self._closed and t_ns > self._covered_ns:
            self.cover(t_ns)
            self._covered_ns = t_ns
            self._estimator = None
            self._trace = self._load()
        if self._estimator is None:
            # In a forked child, closing does not read it.
            self._trace = self._trace or self._load()
            self._estimator = EnergyEstimator(self._trace, self.baseline)
        return self._estimator

    def _load(self) -> Trace:
        try:
            if self._reader is None:
                self._reader = TraceReader(self.directory)
            return self._reader.read()
        except (OSError, TraceError) as error:
            # What was read before it was removed remains.
            reason = f"the recording was removed or damaged: {error}"
            if reason not in self._lost:
                self._lost.append(reason)
            return self._trace or missing_trace(reason)


def _window(span: Span | Window) -> Window:
    if isinstance(span, Window):
        return span
    if span.stop_ns is None:
        raise ValueError(f"span {span.name!r} is still open; end it before asking its energy")
    return Window(span.start_ns, span.stop_ns, *(span.device_window() or ()))


@contextlib.contextmanager
def measure(
    name: str = "measured", *, sensors: Sequence[str] | SimulatedMachine | None = None
) -> Iterator[Span]:
    """Measure one block.

    Example:
        >>> from joulelab.sensors.simulated import SimulatedMachine
        >>> with measure("sum", sensors=SimulatedMachine.default()) as span:
        ...     total = sum(range(1000000))
        >>> span.energy.gross_j > 0
        True
    """
    with Meter(sensors=sensors, tracker=None) as meter, meter.span(name) as span:
        yield span


def report_metrics(**values: float) -> None:
    """Record values that the program has reached now, for example its validation accuracy.

    They become attributes of a span of no length, named ``metrics``, in the recording of the
    innermost open span. Without one, they go to the recording of ``joulelab run``, if there is one.

    Example:
        >>> with Meter(sensors=["simulated"]) as meter:
        ...     with meter.span("epoch"):
        ...         report_metrics(accuracy=0.91)
        ...     [span.attributes for span in meter.spans_named("metrics")]
        [{'accuracy': 0.91}]
    """
    attributes = {name: float(value) for name, value in values.items()}
    log = innermost_log()
    if log is not None:
        with Span(log, METRICS_SPAN, attributes):
            return
    if "JOULELAB_RECORDING" in os.environ:
        with Meter(record=False) as meter, meter.span(METRICS_SPAN, **attributes):
            return
