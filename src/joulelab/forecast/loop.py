"""Forecast a training loop between its epochs, at most 0.5 % of its time, and keep its budget."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, TypeVar

from joulelab.carbon.costs import carbon_g
from joulelab.carbon.site import Site
from joulelab.errors import BudgetError, RecorderError, UserError
from joulelab.forecast.profile import Forecast, Profile
from joulelab.forecast.series import load_scipy
from joulelab.forecast.sources import EPOCH, profile_of_trace
from joulelab.format import finite_or_none, percent, quantity
from joulelab.recording.trace_format import FORECAST

if TYPE_CHECKING:
    from joulelab.recording.trace import Trace

T = TypeVar("T")

TOTAL = "total"
"""Attribute of an epoch's span: the number of epochs of the loop."""
COST_SHARE, FIRST_COST_S = 0.005, 0.05
"""Largest share of the loop's time that energies and forecasts may take, and their assumed cost."""
FIRST_FORECAST_S, GROWTH = 10.0, 1.5
"""Without a budget: time of the first forecast, and growth of the epochs until the next one."""
WORTH_PRINTING = 0.1
"""Forecasts with a larger relative uncertainty are not printed."""


class Recording(Protocol):
    """The parts of a :class:`joulelab.Meter` that forecasts and tuning need."""

    @property
    def directory(self) -> Path:
        """Where the trace is."""

    @property
    def trace(self) -> Trace:
        """Every reading so far."""

    @property
    def alive(self) -> bool:
        """Whether everything is still being recorded."""

    @property
    def failure(self) -> str:
        """Why it is not."""

    def span(self, name: str, /, **attributes: Any) -> AbstractContextManager[Any]:
        """Make a span around a block."""

    def cover(self, t_ns: int) -> None:
        """Bring the trace up to a time, CLOCK_MONOTONIC."""

    def add_event(self, kind: str, /, **content: Any) -> None:
        """Add an event to the trace."""


class LoopTuner(Protocol):
    """Tunes a loop while it runs. It never raises, except what functions of the user raise."""

    def begin_epoch(self) -> None:
        """Change what may only be changed between epochs."""

    def close(self) -> None:
        """End the tuning and restore the devices."""


class Tuning(Protocol):
    """How to tune loops, for example :class:`joulelab.Tune`."""

    def start(self, meter: Any, *, quiet: bool) -> LoopTuner:
        """Begin to tune a loop that the meter measures."""


class Pace:
    """Limits repeated work to a share of the time, and to one run every ``least_s``.

    ``first_cost_s`` is the assumed cost of the first run. ``clock`` measures the cost.
    """

    def __init__(
        self,
        share: float,
        *,
        least_s: float = 0.0,
        first_cost_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._least_s, self._clock = share, least_s, clock
        self._next_s = time.monotonic() + first_cost_s / share
        self._begin_s = 0.0

    @property
    def due(self) -> bool:
        """Whether the work may run again."""
        return time.monotonic() >= self._next_s

    def __enter__(self) -> Self:
        self._begin_s = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        cost_s = self._clock() - self._begin_s
        self._next_s = time.monotonic() + max(self._least_s, cost_s / self._share)


class EpochForecaster:
    """Forecasts a loop between its epochs: rarely enough, and without ever failing the training.

    They are ``possible`` if wanted and SciPy is installed; otherwise ``problem`` has the reason.
    After a failure, all work is ``stopped``. SciPy is loaded now, before the loop runs.
    """

    def __init__(self, meter: Recording, since_ns: int, *, wanted: bool = True) -> None:
        self._meter, self._since_ns = meter, since_ns
        self.possible, self.problem, self.stopped = wanted, "", False
        if wanted:
            try:
                load_scipy()
            except UserError as error:
                self.possible, self.problem = False, str(error)
        self.pace = Pace(COST_SHARE, first_cost_s=FIRST_COST_S)

    def profile(self) -> Profile:
        """Build the profile of this process's spans since the start of the loop."""
        return profile_of_trace(self._meter.trace, since_ns=self._since_ns, pid=os.getpid())

    def attempt(self, work: Callable[[], T], consequence: str, stacklevel: int) -> T | None:
        """Run some work. If it fails, warn of the consequence and stop for good."""
        try:
            with self.pace:
                return work()
        except Exception as error:  # noqa: BLE001  (the training must go on, whatever fails)
            self.stopped = True
            warnings.warn(f"{consequence}: {error}", RuntimeWarning, stacklevel + 1)
        return None


class Overrun(NamedTuple):
    """A budget that the next epoch would exceed."""

    quantity: str  # ``"energy"`` in joules or ``"carbon"`` in grams.
    unit: str
    budget: float  # The limit.
    spent: float  # Amount that the finished epochs have used.
    next_epoch: float  # Amount that the next epoch is expected to use.
    epochs: int
    forecast: Forecast | None  # Forecast of the whole loop; ``None`` if its length is unknown.

    def __str__(self) -> str:
        return (
            f"the {self.quantity} budget of {quantity(self.budget, self.unit)} ends after epoch "
            f"{self.epochs}: {quantity(self.spent, self.unit)} are spent, and the next epoch takes "
            f"about {quantity(self.next_epoch, self.unit)}"
        )


@dataclass(slots=True, kw_only=True)
class EpochOptions:
    """Options of :func:`joulelab.epochs` and :meth:`joulelab.Meter.epochs`.

    Raises:
        UserError: A value is out of range, or the carbon intensity is unknown.
    """

    total: int | None = None  # Number of epochs; ``None`` if it is unknown.
    # End the loop once the relative uncertainty of the forecast is below this value, for example
    # 0.02, so that the loop only profiles a longer one.
    within: float | None = None
    least: int = 3  # Minimum number of epochs before ``within`` ends the loop.
    max_energy_j: float | None = None  # Budget of gross energy in joules.
    max_carbon_g: float | None = None  # Budget of carbon in grams of CO2-equivalent.
    # Carbon intensity of the electricity. Default: that of the country set with ``joulelab site``.
    carbon_intensity_g_per_kwh: float | None = None
    # Power usage effectiveness of the site. Default: 1, or that of ``joulelab site`` if its carbon
    # intensity is used.
    pue: float | None = None
    # Reaction when the next epoch would exceed a budget: ``"warn"`` and go on, ``"raise"``
    # :class:`~joulelab.errors.BudgetError`, ``"stop"`` the loop, or a function that is called once
    # with the :class:`Overrun` and returns whether to stop.
    on_budget: Literal["warn", "raise", "stop"] | Callable[[Overrun], object] = "warn"
    quiet: bool = False  # Print nothing.
    # Lower the energy of the loop while it runs: a :class:`joulelab.Tune`.
    tune: Tuning | None = None

    def __post_init__(self) -> None:
        for name in ("total", "within", "least", "max_energy_j", "max_carbon_g"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value!r}", why="it must be positive")
        if not callable(self.on_budget) and self.on_budget not in ("warn", "raise", "stop"):
            hint = 'give "warn", "raise", "stop" or a function of the overrun'
            raise UserError(f"on_budget is {self.on_budget!r}", hint=hint)
        if self.within is not None and self.total is None:
            raise UserError("within needs the number of epochs", hint="give total")
        if self.max_carbon_g is not None and self.carbon_intensity_g_per_kwh is None:
            site = Site.configured(pue=self.pue)
            if site.factor is None:
                hint = "give carbon_intensity_g_per_kwh, or run joulelab site --country XX"
                raise UserError("max_carbon_g needs a carbon intensity", hint=hint)
            self.carbon_intensity_g_per_kwh, self.pue = site.factor.g_per_kwh, site.pue


class _Budget(NamedTuple):
    """A limit in joules, its quantity and unit, and how much of the quantity a joule is."""

    limit_j: float
    quantity: str = "energy"
    unit: str = "J"
    per_j: float = 1.0


def _budget(options: EpochOptions) -> _Budget | None:
    budgets = [_Budget(options.max_energy_j)] if options.max_energy_j else []
    if options.max_carbon_g and options.carbon_intensity_g_per_kwh:
        per_j = carbon_g(1.0, options.carbon_intensity_g_per_kwh, pue=options.pue or 1.0)
        budgets.append(_Budget(options.max_carbon_g / per_j, "carbon", "g", per_j))
    return min(budgets, default=None)


class EpochLoop:
    """Decides after each epoch whether to forecast, print, warn or stop."""

    def __init__(self, meter: Recording, options: EpochOptions) -> None:
        self._meter, self._options, self._budget = meter, options, _budget(options)
        wanted = options.total is not None
        self._forecaster = EpochForecaster(meter, time.monotonic_ns(), wanted=wanted)
        if self._forecaster.problem:
            self._print(self._forecaster.problem)
        self._forecaster.stopped = not (self._budget or self._forecaster.possible)
        self._forecast: Forecast | None = None
        self._is_sure = False
        self._printed: Forecast | None = None
        self._overrun_reported = False
        self._checked = 0
        self._begin_s = time.monotonic()
        self._spent_j = self._epoch_j = 0.0

    def ends_after(self, done: int) -> bool:
        """Whether the loop ends after this many epochs, or :class:`BudgetError` by option."""
        if self._forecaster.stopped or not self._is_due(done):
            return False
        self._checked = done
        unchecked = " and the budget is no longer checked" if self._budget else ""
        if not self._forecaster.attempt(self._check, f"no more forecasts{unchecked}", 3):
            return False
        if self._forecast is not None:
            self._print_forecast(self._forecast)
            if self._is_sure and done >= self._options.least:
                uncertainty = percent(self._forecast.uncertainty, 2)
                self._print(f"sure to {uncertainty} after {done} epochs")
                return True
        return self._is_over_budget(done)

    def _is_due(self, done: int) -> bool:
        budget, within = self._budget, self._options.within
        if not self._checked:
            waited_s = time.monotonic() - self._begin_s
            return budget is not None or within is not None or waited_s > FIRST_FORECAST_S
        if budget is not None and not self._overrun_reported:
            spent_j = self._spent_j + self._epoch_j * (done - self._checked)
            halfway_j = (self._spent_j + budget.limit_j) / 2
            if spent_j >= halfway_j or spent_j + self._epoch_j > budget.limit_j:
                return True
        has_grown = done >= self._checked * GROWTH
        if within is not None:
            return has_grown or done >= self._checked + 5 or self._forecaster.pace.due
        return has_grown and self._forecaster.pace.due

    def _check(self) -> bool:
        """Measure the epochs so far and forecast the loop, if its length is known."""
        profile, options = self._forecaster.profile(), self._options
        unmeasured = self._budget is not None and not math.isfinite(profile.spent_j)
        if not self._meter.alive or unmeasured:
            raise RecorderError(self._meter.failure or "no sensor measures energy")
        self._spent_j = profile.spent_j
        self._epoch_j = self._spent_j / profile.epochs_seen
        if self._forecaster.possible and options.total is not None:
            self._forecast = profile.forecast(
                options.total,
                within=options.within,
                carbon_intensity_g_per_kwh=options.carbon_intensity_g_per_kwh,
                pue=options.pue or 1.0,
            )
            # Where sensors were not read yet, the forecast is only of time.
            self._is_sure = self._forecast.sure and (
                math.isfinite(self._forecast.gross_j)
                or not any(channel.gives_energy for channel in self._meter.trace.channels)
            )
        return True

    def _print_forecast(self, forecast: Forecast) -> None:
        """Print a narrow forecast, and again when it has become twice as sure or was wrong."""
        before, budget = self._printed, self._budget
        limit = WORTH_PRINTING
        if before is not None and before.gross_low_j <= forecast.gross_j <= before.gross_high_j:
            limit = before.uncertainty / 2
        if forecast.uncertainty > limit:
            return
        self._printed = forecast
        names = ("epochs", "epochs_seen", "gross_j", "gross_low_j", "gross_high_j", "duration_s",
            "duration_low_s", "duration_high_s")  # fmt: skip
        values = {name: getattr(forecast, name) for name in names}
        self._meter.add_event(FORECAST, **finite_or_none(values))
        note = ""
        if budget is not None and forecast.gross_j > budget.limit_j:
            note = f", over the budget of {quantity(budget.limit_j * budget.per_j, budget.unit)}"
        self._print(f"{forecast}{note}")

    def _is_over_budget(self, done: int) -> bool:
        """Whether the loop stops because the next epoch would exceed the budget."""
        budget = self._budget
        self._epoch_j *= done != self._options.total
        if budget is None or self._overrun_reported:
            return False
        if self._spent_j + self._epoch_j <= budget.limit_j:
            return False
        self._overrun_reported = True
        energies_j = budget.limit_j, self._spent_j, self._epoch_j
        limit, spent, following = (energy_j * budget.per_j for energy_j in energies_j)
        overrun = Overrun(
            budget.quantity, budget.unit, limit, spent, following, done, self._forecast
        )
        reaction = self._options.on_budget
        if callable(reaction):
            return bool(reaction(overrun))
        if reaction == "raise":
            raise BudgetError(str(overrun))
        if reaction == "stop":
            self._print(str(overrun))
        else:
            warnings.warn(str(overrun), UserWarning, stacklevel=4)
        return reaction == "stop"

    def _print(self, text: str) -> None:
        if not self._options.quiet:
            print(f"joulelab: {text}", file=sys.stderr, flush=True)  # noqa: T201


def iterate_epochs(meter: Recording, items: Iterable[T], options: EpochOptions) -> Iterator[T]:
    """Iterate over the items, each within a span ``epoch``; see :meth:`joulelab.Meter.epochs`."""
    loop = EpochLoop(meter, options)
    total = {} if options.total is None else {TOTAL: options.total}
    tuner = None if options.tune is None else options.tune.start(meter, quiet=options.quiet)
    try:
        for index, item in enumerate(items):
            if tuner is not None:
                tuner.begin_epoch()
            with meter.span(EPOCH, index=index, **total):
                yield item
            if loop.ends_after(index + 1):
                return
    finally:
        if tuner is not None:
            tuner.close()
