"""Energy in Keras: ``model.fit(..., callbacks=[EnergyCallback()])``."""

from __future__ import annotations

import math

from joulelab.integrations.callback import EnergyHooks, Fit
from joulelab.integrations.metrics import Metrics, stage_energy, stage_metrics

try:
    from keras.callbacks import Callback
except ImportError as error:
    raise ImportError(
        f"Keras cannot be imported ({error}); run pip install 'joulelab[integrations]', "
        "and set KERAS_BACKEND=torch if TensorFlow is not installed"
    ) from error

PREFIX = "energy_"
LOGGED = ("epoch_gross_j", "epoch_net_j", "mean_power_w", "total_gross_j")
"""Metrics in Keras's own history, which has a metric in every epoch or in none."""

Logs = Metrics | None


class EnergyCallback(EnergyHooks, Callback):  # type: ignore[misc]
    """Records what a Keras model does, and adds its energy to the history next to the loss.

    The spans are ``fit`` > ``epoch`` > ``step`` and ``validate``, and ``test`` and ``predict`` on
    their own. A ``step`` is one batch, or as many as Keras executes at a time.

    An epoch whose energy is not computed at its end has NaN in its logs. The values are added to
    the model's history later.

    Keras does not report failures to callbacks. Spans that a failure leaves open end with
    :meth:`close`, at the end of a ``with`` block of this callback, or when the next training
    begins.

    The arguments are those of :class:`~joulelab.integrations.callback.EnergyHooks`; the forecast is
    only in ``history``.
    """

    _step = 0

    def close(self) -> None:
        """End all open spans and the recording, and compute the remaining metrics."""
        fit, self._fit = self._fit, None
        self._spans.end_all()
        if fit is not None:
            for epoch, row in fit.new_metrics(now=True):
                self._add(epoch.epoch, row)
            self._add_stage(stage_metrics("fit", fit.end()))
        super().close()

    def on_train_begin(self, logs: Logs = None) -> None:
        self.close()
        self._spans.begin("fit")
        self._step = 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self._fit is None:
            total = self.params.get("epochs") if self._forecast else None
            self._fit = Fit(self._spans, total_epochs=total - epoch if total else math.inf)
        self._fit.begin_epoch(epoch, self._step)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self._steps:
            self._spans.begin("step", index=self._step)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._step += 1
        self._spans.end("step")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._fit is None:
            return
        self._fit.end_epoch(epoch, self._step)
        if logs is not None:
            logs |= dict.fromkeys(self._logged_names(), math.nan)
        for ended, row in self._fit.new_metrics():
            self._add(ended.epoch, row, logs if ended.epoch == epoch else None)

    def on_train_end(self, logs: Logs = None) -> None:
        self.close()

    def on_test_begin(self, logs: Logs = None) -> None:
        if self._fit is not None:
            self._fit.begin_validation()
        else:
            self._spans.begin("test")

    def on_test_end(self, logs: Logs = None) -> None:
        if self._fit is not None:
            self._fit.end_validation()
        else:
            self._end_stage("test")

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._spans.begin("predict")

    def on_predict_end(self, logs: Logs = None) -> None:
        self._end_stage("predict")

    def _end_stage(self, name: str) -> None:
        span = self._spans.end(name)
        if span is not None and self._spans.find("fit") is None:
            self._add_stage(stage_metrics(name, stage_energy(span)))
            self._spans.close()

    def _logged_names(self) -> list[str]:
        has_net = self.meter is not None and self.meter.baseline is not None
        return [PREFIX + name for name in LOGGED if has_net or name != "epoch_net_j"]

    def _add(self, epoch: float, row: Metrics, logs: Logs = None) -> None:
        """Add the metrics of an epoch to its logs, or to Keras's history if it has ended."""
        self.history.append(row | {"epoch": epoch})
        logged = {
            name: row.get(name.removeprefix(PREFIX), math.nan) for name in self._logged_names()
        }
        if logs is not None:
            logs |= logged
            return
        saved = getattr(self.model, "history", None)
        if saved is None or epoch not in saved.epoch:
            return
        for name, value in logged.items():
            if len(saved.history.get(name, ())) == len(saved.epoch):
                saved.history[name][saved.epoch.index(epoch)] = value

    def _add_stage(self, row: Metrics) -> None:
        if row:
            self.history.append(row)
