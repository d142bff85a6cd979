"""Energy in Keras: ``model.fit(..., callbacks=[EnergyCallback()])``."""

from __future__ import annotations

import math

from joulelab.integrations.figures import stage_energy, stage_figures
from joulelab.integrations.fit import FIT, STEP, Fit
from joulelab.integrations.hooks import EnergyHooks
from joulelab.meter import Meter

try:
    from keras.callbacks import Callback
except ImportError as error:
    raise ImportError(
        f"Keras cannot be imported ({error}); run pip install 'joulelab[integrations]', "
        "and set KERAS_BACKEND=torch where TensorFlow is not installed"
    ) from error

PREFIX = "energy_"
LOGGED = ("epoch_gross_j", "epoch_net_j", "mean_power_w", "total_gross_j")
"""The figures that Keras is given. Its history has each in every epoch, or in none."""


class EnergyCallback(EnergyHooks, Callback):  # type: ignore[misc]
    """Marks what a Keras model does, and puts its energy beside the loss.

    Spans are ``fit`` > ``epoch`` > ``step`` and ``validate``; and ``test`` and ``predict`` of their
    own. A ``step`` is a batch, or as many as Keras executes at once.

    The figures of an epoch that is not worked out at its own end are NaN in its logs; they are
    put into the model's history later.

    Keras tells callbacks nothing of a failure: the spans that one leaves open end with
    :meth:`close`, with the ``with`` block of which this is the context, or when the next training
    begins.

    Args:
        meter: The caller's own; ``None``: one is opened for each call of the model.
        steps: Whether to mark steps. A span takes about 0.5 kB of memory.
        forecast: Whether to forecast what all epochs will take, in ``history``; needs SciPy.

    Attributes:
        history: All figures, a row an epoch and one for the whole fit.
    """

    def __init__(
        self, meter: Meter | None = None, *, steps: bool = True, forecast: bool = True
    ) -> None:
        super().__init__(meter, steps=steps, forecast=forecast)
        self.history: list[dict[str, float]] = []
        self._step = 0

    def close(self) -> None:
        """Ends whatever is open, works out what can be, and ends the recording."""
        fit, self._fit = self._fit, None
        self._stages.end_all()
        if fit is not None:
            for epoch, row in fit.due(at_once=True):
                self._take(epoch.epoch, row)
            self._keep(stage_figures(FIT, fit.end()))
        super().close()

    # Training.

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begins a fit; one that failed before ends."""
        self.close()
        self._stages.begin(FIT)
        self._step = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Begins an epoch."""
        if self._fit is None:
            total = self.params.get("epochs") if self._forecast else None
            self._fit = Fit(self._stages, total_epochs=total - epoch if total else math.inf)
        self._fit.begin_epoch(epoch, self._step)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Begins a step."""
        if self._steps:
            self._stages.begin(STEP, index=self._step)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Ends it."""
        self._step += 1
        self._stages.end(STEP)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Ends the epoch, and takes the energies that are worked out now."""
        if self._fit is None:
            return
        self._fit.end_epoch(epoch, self._step)
        if logs is not None:
            logs |= dict.fromkeys(self._logged(), math.nan)
        for of, row in self._fit.due():
            self._take(of.epoch, row, logs if of.epoch == epoch else None)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Works out what is left, and ends the recording."""
        self.close()

    # Validation, test, prediction.

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begins a validation, in a fit, or else a test."""
        if self._fit is not None:
            self._fit.begin_validation()
        else:
            self._stages.begin("test")

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Ends it."""
        if self._fit is not None:
            self._fit.end_validation()
        else:
            self._end_stage("test")

    def on_predict_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begins a prediction."""
        self._stages.begin("predict")

    def on_predict_end(self, logs: dict[str, float] | None = None) -> None:
        """Ends it."""
        self._end_stage("predict")

    def _end_stage(self, name: str) -> None:
        span = self._stages.end(name)
        if span is not None and self._stages.find(FIT) is None:
            self._keep(stage_figures(name, stage_energy(span)))
            self._stages.close()

    # Logging.

    def _logged(self) -> list[str]:
        """The names under which Keras is given figures."""
        has_net = self.meter is not None and self.meter.baseline is not None
        return [PREFIX + name for name in LOGGED if has_net or name != "epoch_net_j"]

    def _take(
        self, epoch: float, row: dict[str, float], logs: dict[str, float] | None = None
    ) -> None:
        """Puts an epoch's figures into its logs, or into the history of an earlier one."""
        self._keep(row | {"epoch": epoch})
        figures = {name: row.get(name.removeprefix(PREFIX), math.nan) for name in self._logged()}
        if logs is not None:
            logs |= figures
            return
        kept = getattr(self.model, "history", None)
        if kept is None or epoch not in kept.epoch:
            return
        for name, value in figures.items():
            if len(kept.history.get(name, ())) == len(kept.epoch):
                kept.history[name][kept.epoch.index(epoch)] = value

    def _keep(self, row: dict[str, float]) -> None:
        if row:
            self.history.append(row)
