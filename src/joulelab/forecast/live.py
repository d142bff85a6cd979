"""Epochs of a training loop, with a forecast while they run and a budget that they keep to."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar

from joulelab.carbon.quantities import carbon_g
from joulelab.carbon.site import Site
from joulelab.errors import BudgetError, UserError
from joulelab.forecast.from_spans import EPOCH, profile_of_trace
from joulelab.forecast.series import load_scipy
from joulelab.forecast.words import figure, line

if TYPE_CHECKING:
    from joulelab.forecast.profile import Forecast, Profile
    from joulelab.meter import Meter

T = TypeVar("T")

TOTAL = "total"
"""The attribute of an epoch that says how many there will be, where that is known."""

FIRST_LOOK_S = 10.0
"""Without a budget nobody needs a forecast sooner."""

COST_SHARE = 0.005
"""Working energies out may take this share of the loop's time, a budget's last steps aside."""

GROWTH = 1.5
"""No new forecast is made before so many times the epochs of the last one."""

WORTH_PRINTING = 0.1
"""A forecast less sure than this is kept to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """A budget that the next epoch would go over.

    Attributes:
        quantity: ``"energy"`` or ``"carbon"``.
        unit: ``"J"`` or ``"g"``.
        budget: What may be spent.
        spent: What the epochs so far have spent.
        next_epoch: What the next one is expected to spend.
        epochs: How many are over.
        forecast: Of the whole loop; ``None`` where its length is not known.
    """

    quantity: str
    unit: str
    budget: float
    spent: float
    next_epoch: float
    epochs: int
    forecast: Forecast | None

    def __str__(self) -> str:
        return (
            f"the {self.quantity} budget of {figure(self.budget, self.unit)} ends after epoch "
            f"{self.epochs}: {figure(self.spent, self.unit)} are spent, and the next epoch takes "
            f"about {figure(self.next_epoch, self.unit)}"
        )


OnBudget = Literal["warn", "raise", "stop"] | Callable[[Overrun], object]


class EpochOptions(TypedDict, total=False):
    """What a loop can be asked to do.

    Attributes:
        within: End the loop once the forecast is this sure, as 0.02: the loop is a profile.
        least: Do not end it so before this many epochs.
        max_energy_j: Gross energy that the loop may spend.
        max_carbon_g: Grams of CO2-equivalent that it may cause.
        carbon_intensity_g_per_kwh: Of the electricity, for carbon. Without it a budget of carbon
            takes what ``joulelab site`` keeps; it is not guessed.
        pue: Power usage effectiveness of the site, for carbon.
        on_budget: What to do when the next epoch would go over a budget: ``"warn"`` (and go on),
            ``"raise"`` :class:`~joulelab.errors.BudgetError`, ``"stop"`` the loop, or a function,
            called once with an :class:`Overrun`; where it gives something true the loop stops.
        quiet: Print nothing.
    """

    within: float | None
    least: int
    max_energy_j: float | None
    max_carbon_g: float | None
    carbon_intensity_g_per_kwh: float | None
    pue: float
    on_budget: OnBudget
    quiet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a loop, checked; see :class:`EpochOptions`.

    Raises:
        UserError: A value is out of its range, or a budget of carbon has no intensity.
    """

    total: int | None = None
    within: float | None = None
    least: int = 3
    max_energy_j: float | None = None
    max_carbon_g: float | None = None
    carbon_intensity_g_per_kwh: float | None = None
    pue: float = 1.0
    on_budget: OnBudget = "warn"
    quiet: bool = False

    def __post_init__(self) -> None:
        for name in ("total", "within", "least", "max_energy_j", "max_carbon_g"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value!r}", why="it must be positive")
        if not callable(self.on_budget) and self.on_budget not in ("warn", "raise", "stop"):
            raise UserError(
                f"on_budget is {self.on_budget!r}",
                hint='give "warn", "raise", "stop" or a function of the overrun',
            )
        if self.max_carbon_g is not None and self.carbon_intensity_g_per_kwh is None:
            raise UserError(
                "max_carbon_g is given without carbon_intensity_g_per_kwh",
                why="the intensity of the electricity is not guessed",
                hint="give it, or keep the country with joulelab site --country XX",
            )
        if self.within is not None and self.total is None:
            raise UserError("within is given without a length", hint="give total")

    @property
    def limit_j(self) -> float:
        """The least energy that a budget allows; infinite without one."""
        limits = [math.inf if self.max_energy_j is None else self.max_energy_j]
        if self.max_carbon_g is not None and self.carbon_intensity_g_per_kwh:
            per_j = carbon_g(1.0, self.carbon_intensity_g_per_kwh, pue=self.pue)
            limits.append(self.max_carbon_g / per_j)
        return min(limits)


def at_site(given: EpochOptions) -> EpochOptions:
    """The options with what is kept of the site, where a budget of carbon needs it.

    Raises:
        UserError: What is kept cannot be read.
    """
    if given.get("max_carbon_g") is None or given.get("carbon_intensity_g_per_kwh") is not None:
        return given
    site = Site.configured(pue=given.get("pue"))
    if site.factor is None:
        return given
    return {**given, "carbon_intensity_g_per_kwh": site.factor.g_per_kwh, "pue": site.pue}


def epochs(meter: Meter, items: Iterable[T], options: Options) -> Iterator[T]:
    """Each item within a span ``epoch``; see :meth:`joulelab.Meter.epochs`."""
    watch = _Watch(meter, options)
    known = {} if options.total is None else {TOTAL: options.total}
    for index, item in enumerate(items):
        with meter.span(EPOCH, index=index, **known):
            yield item
        if watch.ends_after(index + 1):
            return


def length_of(items: object, total: int | None) -> int | None:
    """How many items there are, where that is known."""
    if total is None and isinstance(items, Sized):
        return len(items)
    return total


class _Watch:
    """Looks at the energies of a loop between its epochs, as seldom as it can."""

    def __init__(self, meter: Meter, options: Options) -> None:
        self._meter, self._options = meter, options
        self._limit_j = options.limit_j
        self._given_up = False
        self._overrun_told = False
        self._printed: Forecast | None = None
        self._looked_at = 0
        self._looked_s = time.monotonic()
        self._cost_s = 0.0
        self._spent_j = self._epoch_j = 0.0
        self._forecasts = options.total is not None and self._can_forecast()
        self._given_up = not self._forecasts and not math.isfinite(self._limit_j)
        self._begin_ns = time.monotonic_ns()
        self._begin_s = time.monotonic()

    def ends_after(self, done: int) -> bool:
        """Whether the loop ends after so many epochs. Says what is to be said.

        Raises:
            BudgetError: The loop was asked to raise it.
        """
        if self._given_up or not self._due(done):
            return False
        profile = self._look(done)
        if profile is None:
            return False
        options = self._options
        forecast = None
        if self._forecasts and options.total is not None:
            forecast = profile.forecast(
                options.total,
                within=options.within,
                carbon_intensity_g_per_kwh=options.carbon_intensity_g_per_kwh,
                pue=options.pue,
            )
            self._print(forecast)
        self._cost_s = time.monotonic() - self._looked_s
        if forecast is not None and forecast.sure and done >= options.least:
            self._say(f"sure to {100 * forecast.uncertainty:.2g} % after {done} epochs")
            return True
        return self._over_budget(done, forecast)

    def _can_forecast(self) -> bool:
        """Loads what forecasts need now, since that takes a second, and not while the loop runs."""
        try:
            load_scipy()
        except UserError as error:
            self._say(str(error))
            return False
        return True

    def _due(self, done: int) -> bool:
        now_s = time.monotonic()
        if not self._looked_at:
            early = math.isfinite(self._limit_j) or self._options.within is not None
            return early or now_s - self._begin_s > FIRST_LOOK_S
        if math.isfinite(self._limit_j) and not self._overrun_told:
            spent_j = self._spent_j + self._epoch_j * (done - self._looked_at)
            halfway_j = (self._spent_j + self._limit_j) / 2
            if spent_j >= halfway_j or spent_j + self._epoch_j > self._limit_j:
                return True
        if self._options.within is not None:
            return done >= min(self._looked_at * GROWTH, self._looked_at + 5)
        seldom = now_s - self._looked_s > self._cost_s / COST_SHARE
        return seldom and done >= self._looked_at * GROWTH

    def _look(self, done: int) -> Profile | None:
        """The profile so far. A failure ends the watch, never the loop."""
        self._looked_s = time.monotonic()
        self._looked_at = done
        try:
            profile = profile_of_trace(self._meter.trace, since_ns=self._begin_ns)
        except Exception as error:  # noqa: BLE001  (whatever it is, the training goes on)
            self._give_up(str(error))
            return None
        blind = math.isfinite(self._limit_j) and not math.isfinite(profile.spent_j)
        if not self._meter.alive or blind:
            self._give_up(self._meter.failure or "no sensor gives an energy")
            return None
        self._spent_j = profile.spent_j
        self._epoch_j = self._spent_j / profile.epochs_seen
        return profile

    def _give_up(self, why: str) -> None:
        self._given_up = True
        watched = " and the budget is not watched" if math.isfinite(self._limit_j) else ""
        warnings.warn(f"no more forecasts{watched}: {why}", RuntimeWarning, stacklevel=5)

    def _print(self, forecast: Forecast) -> None:
        """A line when the forecast is worth it, and anew when it is twice as sure or was wrong."""
        if forecast.uncertainty > WORTH_PRINTING:
            return
        before = self._printed
        if before is not None:
            halved = forecast.uncertainty <= before.uncertainty / 2
            held = before.gross_low_j <= forecast.gross_j <= before.gross_high_j
            if held and not halved:
                return
        self._printed = forecast
        note = ""
        if forecast.gross_j > self._limit_j:
            _, unit, per_j = self._budgeted()
            note = f", over the budget of {figure(self._limit_j * per_j, unit)}"
        self._say(f"{line(forecast)}{note}")

    def _over_budget(self, done: int, forecast: Forecast | None) -> bool:
        self._epoch_j *= done != self._options.total
        if self._spent_j + self._epoch_j <= self._limit_j or self._overrun_told:
            return False
        self._overrun_told = True
        overrun = self._overrun(done, forecast)
        match self._options.on_budget:
            case "warn":
                warnings.warn(str(overrun), UserWarning, stacklevel=4)
                return False
            case "raise":
                raise BudgetError(str(overrun))
            case "stop":
                self._say(str(overrun))
                return True
            case call:
                return bool(call(overrun))

    def _overrun(self, done: int, forecast: Forecast | None) -> Overrun:
        quantity, unit, per_j = self._budgeted()
        return Overrun(
            quantity=quantity,
            unit=unit,
            budget=self._limit_j * per_j,
            spent=self._spent_j * per_j,
            next_epoch=self._epoch_j * per_j,
            epochs=done,
            forecast=forecast,
        )

    def _budgeted(self) -> tuple[str, str, float]:
        """What the tighter budget is of, its unit, and how much of it a joule is."""
        options = self._options
        if options.max_energy_j == self._limit_j or options.carbon_intensity_g_per_kwh is None:
            return "energy", "J", 1.0
        return "carbon", "g", carbon_g(1.0, options.carbon_intensity_g_per_kwh, pue=options.pue)

    def _say(self, text: str) -> None:
        if not self._options.quiet:
            sys.stderr.write(f"joulelab: {text}\n")
            sys.stderr.flush()
