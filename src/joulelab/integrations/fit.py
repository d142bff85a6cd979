"""A fit under way: its epochs, and their energies, worked out as seldom as the training needs."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from joulelab.errors import UserError
from joulelab.integrations.figures import Epoch, epoch_figures, known, stage_energy
from joulelab.integrations.stages import Stages
from joulelab.recording.spans import Span

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.forecast.profile import Forecast
    from joulelab.recording.trace import Trace

COST_SHARE = 0.005
"""Working energies out may take this share of the training's time; its end aside."""

FIRST_COST_S = 0.05
"""What it is taken to cost before it was tried."""

FIT, EPOCH, STEP, VALIDATE, CHECKPOINT = "fit", "epoch", "step", "validate", "checkpoint"


class Fit:
    """The epochs of a fit, as a framework's hooks tell of them.

    An epoch's energy is worked out at its own end where :data:`COST_SHARE` allows that, and
    otherwise together with those of later epochs.

    Args:
        stages: Where spans are begun and ended; ``fit`` is begun here where it is not open.
        logs: Whether its energies are to be logged by this process, and not only marked.
        total_epochs: How many epochs the fit takes at most, for a forecast.
        total_steps: How many steps of the optimiser it takes at most, for a forecast.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        logs: bool = True,
        total_epochs: float = math.inf,
        total_steps: float = math.inf,
    ) -> None:
        self._stages = stages
        self._span = stages.find(FIT) or stages.begin(FIT)
        self._total_epochs, self._total_steps = total_epochs, total_steps
        self._forecasts = math.isfinite(min(total_epochs, total_steps))
        self._pending: list[Epoch] = []
        self._validations: list[Span] = []
        self._first_step = self._steps_per_epoch = self._epochs = 0
        self._total_j = 0.0
        self._given_up = not logs or self._span is None
        if not self._given_up:
            self._load()
        self._cost_s = FIRST_COST_S
        self._looked_s = time.monotonic()

    @property
    def in_epoch(self) -> bool:
        """Whether an epoch is under way."""
        return self._stages.find(EPOCH) is not None

    def begin_epoch(self, index: int, step: int) -> None:
        """Begins an epoch; the framework has made so many steps of the optimiser before it."""
        self._first_step, self._validations = step, []
        total = self._total_epochs
        known_total = {"total": int(total)} if float(total).is_integer() else {}
        self._stages.begin(EPOCH, index=index, **known_total)

    def end_epoch(self, epoch: float, step: int, samples: float = math.nan) -> None:
        """Ends the epoch.

        Args:
            epoch: What the framework calls its end.
            step: How many steps of the optimiser the framework has made.
            samples: How many this host trained on in it; NaN where that is not known.
        """
        span = self._stages.end(EPOCH)
        if span is None:
            return
        self._epochs += 1
        self._steps_per_epoch = max(self._steps_per_epoch, step - self._first_step)
        self._pending.append(
            Epoch(
                span=span,
                epoch=epoch,
                step=step,
                samples=samples,
                validations=self._validations,
            )
        )

    def begin_validation(self) -> None:
        """Begins a validation; a step that is under way ends."""
        if self._stages.find(VALIDATE) is None:
            self._stages.end(STEP)
            self._stages.begin(VALIDATE)

    def end_validation(self) -> None:
        """Ends a validation."""
        span = self._stages.end(VALIDATE)
        if span is not None:
            self._validations.append(span)

    def due(self, *, at_once: bool = False) -> list[tuple[Epoch, dict[str, float]]]:
        """The epochs whose energies are worked out now, with their figures.

        Beside those of :func:`~joulelab.integrations.figures.epoch_figures` there is
        ``total_gross_j``, the sum over the epochs so far, and, where the end is known,
        ``forecast_gross_j``, ``forecast_low_j`` and ``forecast_high_j``, of all epochs.

        Args:
            at_once: However much of the training's time it takes.
        """
        begin_s = time.monotonic()
        seldom = begin_s - self._looked_s > self._cost_s / COST_SHARE
        if self._given_up or not self._pending or not (seldom or at_once):
            return []
        epochs, self._pending = self._pending, []
        try:
            rows = self._work_out(epochs)
        except Exception as error:  # noqa: BLE001  (whatever it is, the training goes on)
            self._given_up = True
            warnings.warn(f"no more energies are logged: {error}", RuntimeWarning, stacklevel=3)
            return []
        self._looked_s = time.monotonic()
        self._cost_s = self._looked_s - begin_s
        return list(zip(epochs, rows, strict=True))

    def end(self) -> Energy | None:
        """Ends the fit and all within it; its energy, where it is known and to be logged."""
        self._stages.end(FIT)
        if self._given_up or self._span is None:
            return None
        return stage_energy(self._span)

    def _load(self) -> None:
        """Imports what working out takes now, and not while the training runs."""
        import joulelab.energy.estimator  # noqa: F401, PLC0415

        if self._forecasts:
            from joulelab.forecast.series import load_scipy  # noqa: PLC0415

            try:
                load_scipy()
            except UserError:
                self._forecasts = False

    def _work_out(self, epochs: Sequence[Epoch]) -> list[dict[str, float]]:
        meter = self._stages.meter
        assert meter is not None
        trace = meter.trace
        spans = [span for epoch in epochs for span in (epoch.span, *epoch.validations)]
        energies = iter(meter.energies(spans))
        rows = []
        for epoch in epochs:
            whole = next(energies)
            row = epoch_figures(epoch, whole, [next(energies) for _ in epoch.validations])
            self._total_j += whole.gross_j
            rows.append(row | known({"total_gross_j": self._total_j}))
        epochs_in_all = self._epochs_in_all()
        if self._forecasts and self._epochs < epochs_in_all < math.inf:
            forecast = self._forecast(trace, epochs_in_all)
            rows[-1] |= known(
                {
                    "forecast_gross_j": forecast.gross_j,
                    "forecast_low_j": forecast.gross_low_j,
                    "forecast_high_j": forecast.gross_high_j,
                }
            )
        return rows

    def _epochs_in_all(self) -> float:
        by_steps = self._total_steps / self._steps_per_epoch if self._steps_per_epoch else math.inf
        return min(self._total_epochs, by_steps)

    def _forecast(self, trace: Trace, epochs: float) -> Forecast:
        """Of the whole fit, from the spans that this process marked in it."""
        from joulelab.energy.estimator import EnergyEstimator  # noqa: PLC0415
        from joulelab.forecast.sources import profile_of  # noqa: PLC0415

        assert self._span is not None
        spans = [
            span
            for span in trace.spans
            if span.key[0] == os.getpid() and span.start_ns >= self._span.start_ns
        ]
        return profile_of(spans, EnergyEstimator(trace).energies).forecast(epochs)
