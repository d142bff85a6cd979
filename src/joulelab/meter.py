"""The object a user holds: it joins sensors, recording and accounting."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from joulelab.errors import TraceError
from joulelab.recording.joining import open_link
from joulelab.recording.span_log import SpanLog
from joulelab.recording.spans import Span
from joulelab.sensors.sensor import Absence

if TYPE_CHECKING:
    from joulelab.energy.baseline import Baseline
    from joulelab.energy.energy import Energy
    from joulelab.energy.estimator import EnergyEstimator
    from joulelab.forecast.profile import Forecast
    from joulelab.recording.trace import Trace, TraceReader
    from joulelab.recording.trace_spans import Window
    from joulelab.sensors.sensor import Quantity
    from joulelab.sensors.simulated import SimulatedMachine

T = TypeVar("T")

IDLE_SPAN = "idle"
FLUSH_TIMEOUT_S = 5.0


class Meter:
    """Measures a program, or parts of it.

    Marking a span only writes down the time; energy is worked out when it is asked for. The
    sensors are read by a process of its own, the recorder, which ends with this one. When it dies
    the program goes on, and what it no longer saw is absent from the account.

    Under ``joulelab run`` it joins the recorder that is there, and the processes of one job (of
    torchrun, Slurm or MPI) share one on each host: see ``recording/joining.py``.

    Args:
        sensors: What to read. ``None``: everything that this process may use (GPUs by
            ``CUDA_VISIBLE_DEVICES``). Otherwise names as ``["gpu", "cpu"]``, or a
            :class:`~joulelab.sensors.simulated.SimulatedMachine`.
        interval_s: Read every sensor at least this often; ``None``: at each sensor's own pace.
        baseline: Idle power, so that net energies are known: a
            :class:`~joulelab.energy.baseline.Baseline`, or a number of seconds (T_m) for
            which the program stands still while idle power is measured first; ``None``: what
            ``joulelab idle`` last kept for this machine, if anything.
        directory: Save the run here: its trace, and ``run.json`` when the meter closes, so that
            it can be watched, compared, forecast and added up like any other run. If the directory
            has a recording already, the run is saved next to it (``directory-2`` and so on) with a
            warning. In a job of several processes the trace is in ``directory/<host>/<number>``.
            ``None``: in a temporary place until the meter closes.
        own_recorder: ``True``: share none in any case. ``False``, for a program that wraps others:
            join also with a directory, which can then be read as the recording, wherever that is.
        record: ``False``: write no ``run.json``.

    Attributes:
        directory: Where the trace is.
        baseline: Idle power, as far as it is known.

    Raises:
        UserError: A sensor that was asked for does not exist.
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
        own_recorder: bool | None = None,
        record: bool = True,
    ) -> None:
        if isinstance(sensors, str):
            sensors = [sensors]
        elif sensors is not None and not isinstance(sensors, Sequence):
            sensors = [sensors.spec()]
        place = None if directory is None else Path(directory)
        self._is_recorded = record and directory is not None and own_recorder is not False
        self._settings = {"sensors": sensors, "interval_s": interval_s}
        self._error: BaseException | None = None
        self._temporary = directory is None
        self._link, self._not_joined = open_link(place, sensors, interval_s, own=own_recorder)
        self.directory = self._link.directory
        self._started_unix_s, self._start_ns = time.time(), time.monotonic_ns()
        self._trace: Trace | None = None
        self._reader: TraceReader | None = None
        self._accounts: EnergyEstimator | None = None
        self._covered_ns = 0
        self._closed = False
        self._log = SpanLog(
            self._link.mark, self._energy_of, shared=self.joined, further=self._cuda_use()
        )
        self.baseline: Baseline | None = None
        if isinstance(baseline, (int, float)):
            self.baseline = self.measure_idle(baseline)
        elif baseline is not None:
            self.baseline = baseline
        else:
            self.baseline = _kept_baseline()

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

    # Marking.

    def begin(self, name: str, /, **attributes: Any) -> Span:
        """Opens a span. It nests in the span that is open in the same thread."""
        return Span(self._log, name, attributes).__enter__()

    def end(self, span: Span) -> None:
        """Closes a span.

        Raises:
            ValueError: It was closed before.
        """
        span.end()

    def span(self, name: str, /, **attributes: Any) -> Span:
        """A span around a block, as ``with meter.span("epoch", index=3) as span``.

        It is closed however the block ends.
        """
        return Span(self._log, name, attributes)

    @property
    def spans(self) -> tuple[Span, ...]:
        """Every span so far, in the order they began."""
        return tuple(self._log.spans())

    def spans_named(self, name: str, /, **attributes: Any) -> list[Span]:
        """The finished spans of that name that have all these attributes."""
        return [
            span
            for span in self._log.spans(name)
            if span.stop_ns is not None and attributes.items() <= span.attributes.items()
        ]

    # Resolving.

    def energy(self, name: str, /, **attributes: Any) -> Energy:
        """The sum over the finished spans of that name that have all these attributes.

        Raises:
            ValueError: There is no such span.
        """
        from joulelab.energy.energy import total  # noqa: PLC0415

        spans = self.spans_named(name, **attributes)
        if not spans:
            known = ", ".join(sorted({span.name for span in self._log.spans()})) or "none"
            raise ValueError(f"no finished span named {name!r} with {attributes}; known: {known}")
        return total(self.energies(spans))

    def energies(self, spans: Sequence[Span]) -> list[Energy]:
        """The energy of each of these spans. Waits at most until the sensors have covered them.

        Raises:
            ValueError: One of them is still open.
        """
        windows = [self._window(span) for span in spans]
        if not windows:
            return []
        return self._accounts_until(_latest_ns(windows)).energies(windows)

    def mean(self, component: str, quantity: Quantity, spans: Sequence[Span]) -> float:
        """The mean of a quantity, as utilisation, over these spans; NaN when it was not seen."""
        from joulelab.energy.estimator import mean_reading  # noqa: PLC0415

        windows = [self._window(span) for span in spans]
        if not windows:
            return float("nan")
        self._accounts_until(_latest_ns(windows))
        assert self._trace is not None
        return mean_reading(self._trace, component, quantity, windows)

    @property
    def trace(self) -> Trace:
        """Every reading so far."""
        self._accounts_until(time.monotonic_ns())
        assert self._trace is not None
        return self._trace

    def measure_idle(self, duration_s: float) -> Baseline:
        """Stands still for a time (the paper's T_m) and adds its power to the baseline."""
        with self.span(IDLE_SPAN) as span:
            time.sleep(duration_s)
        return self.idle_from(span)

    def idle_from(self, span: Span) -> Baseline:
        """Adds the power of a span in which the program stood still to the baseline."""
        from joulelab.energy.baseline import Baseline, IdlePoint  # noqa: PLC0415

        middle_s = span.start_ns * 1e-9 + span.duration_s / 2
        points = self.baseline.points if self.baseline else ()
        self.baseline = Baseline((*points, IdlePoint.from_energy(span.energy, middle_s)))
        self._accounts = None
        return self.baseline

    # Forecasting.

    def forecast(
        self,
        epochs: float,
        *,
        within: float | None = None,
        steps_per_epoch: int | None = None,
        carbon_intensity_g_per_kwh: float | None = None,
        pue: float = 1.0,
    ) -> Forecast:
        """What a run of so many epochs takes, from those measured so far.

        It rests on the spans named ``epoch``, on the ``step`` spans in them while few epochs are
        over, and on what lies beside them, as ``validate``.

        Args:
            epochs: Of the whole run.
            within: Relative half-width of the interval that would be sure enough; see
                :attr:`~joulelab.forecast.profile.Forecast.sure`.
            steps_per_epoch: For a forecast before the first epoch is over.
            carbon_intensity_g_per_kwh: Of the electricity, for carbon.
            pue: Power usage effectiveness of the site, for carbon.

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
        from joulelab.forecast.loop import EpochOptions, epochs  # noqa: PLC0415

        if total is None and isinstance(items, Sized):
            total = len(items)
        return epochs(self, items, EpochOptions(total=total, **options))

    # The recorder.

    @property
    def alive(self) -> bool:
        """Whether everything is still being recorded."""
        return self._link.alive

    @property
    def joined(self) -> bool:
        """Whether other processes share the recorder, or may: energies are those of the host."""
        return not self._link.private

    @property
    def failure(self) -> str:
        """Why recording ended early, or is not the one to join; empty when neither is so."""
        return "; ".join(filter(None, (self._not_joined, self._link.failure)))

    @property
    def recorder_pid(self) -> int:
        """The recorder's process."""
        return self._link.pid

    def close(self, covered_ns: int | None = None) -> None:
        """Ends the recording. Energies can still be asked for.

        It goes on for others that share it. In a forked child it hands over the child's spans;
        the recording is its parent's.

        Args:
            covered_ns: Until when the sensors must have seen all, CLOCK_MONOTONIC; ``None``: now.
        """
        if self._closed:
            return
        self._log.finish()
        deadline_s = time.monotonic() + FLUSH_TIMEOUT_S
        while not self._log.flush() and (left_s := deadline_s - time.monotonic()) > 0:
            self._link.wait_for_room(left_s)
        covered_ns = time.monotonic_ns() if covered_ns is None else covered_ns
        self._link.sync(covered_ns)
        # The recorder removes a temporary directory when it ends.
        self._trace = self._load()
        self._accounts = None
        self._closed = True
        self._link.stop(covered_ns)
        if self._link.owned and self._link.private and self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
        # Of the processes that share a recorder, the one that started it writes the record.
        if self._is_recorded and self._trace.header.get("parent_pid") == os.getpid():
            self._write_record(covered_ns)

    def _write_record(self, stop_ns: int) -> None:
        from joulelab.runs.record import write_meter_record  # noqa: PLC0415

        assert self._trace is not None
        try:
            write_meter_record(
                self.directory,
                self._trace,
                self._accounts_until(stop_ns),
                started_unix_s=self._started_unix_s,
                start_ns=self._start_ns,
                stop_ns=stop_ns,
                settings=self._settings,
                error=self._error,
                notes=tuple(filter(None, [self.failure])),
            )
        except Exception as error:  # noqa: BLE001  (the program goes on, whatever it is)
            warnings.warn(f"the record of this run was not written: {error}", stacklevel=3)

    def _cuda_use(self) -> Callable[[], Sequence[bytes]]:
        """What the trace of a job is told of the GPUs that this process uses."""
        if not self.joined:
            return tuple
        from joulelab.recording.cuda_use import CudaUse  # noqa: PLC0415

        return CudaUse().lines

    def _window(self, span: Span) -> Window:
        from joulelab.recording.trace_spans import Window  # noqa: PLC0415

        if span.stop_ns is None:
            raise ValueError(f"span {span.name!r} is still open; end it before asking its energy")
        device = span.device_window()
        return Window(span.start_ns, span.stop_ns, *(device or ()))

    def _energy_of(self, span: Span) -> Energy:
        return self.energies([span])[0]

    def _accounts_until(self, t_ns: int) -> EnergyEstimator:
        from joulelab.energy.estimator import EnergyEstimator  # noqa: PLC0415

        if not self._closed and t_ns > self._covered_ns:
            self._log.flush(leave_unresolved=0)
            self._link.sync(t_ns)
            self._covered_ns = t_ns
            self._trace = self._load()
            self._accounts = None
        if self._accounts is None:
            assert self._trace is not None
            self._accounts = EnergyEstimator(self._trace, self.baseline)
        return self._accounts

    def _load(self) -> Trace:
        from joulelab.recording.trace import Trace, TraceReader  # noqa: PLC0415

        try:
            if self._reader is None:
                self._reader = TraceReader(self.directory)
            return self._reader.read()
        except (OSError, TraceError) as error:
            # Another has removed what is not this process's alone: what was read stays.
            gone = Absence("recording", "trace", str(error))
            return self._trace or Trace.of((), (), [gone])


def _kept_baseline() -> Baseline | None:
    from joulelab.energy.saved_baseline import kept  # noqa: PLC0415

    return kept()


def _latest_ns(windows: Sequence[Window]) -> int:
    return max(max(window.stop_ns, window.device_stop_ns or 0) for window in windows)


@contextlib.contextmanager
def measure(
    name: str = "measured", *, sensors: Sequence[str] | SimulatedMachine | None = None
) -> Iterator[Span]:
    """Measures one block.

    Example:
        >>> from joulelab.sensors.simulated import SimulatedMachine
        >>> with measure("sum", sensors=SimulatedMachine.default()) as span:
        ...     total = sum(range(1000000))
        >>> span.energy.gross_j > 0
        True
    """
    with Meter(sensors=sensors) as meter, meter.span(name) as span:
        yield span
