"""Energy in Keras: ``model.fit(..., callbacks=[EnergyCallback()])``."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Sequence
from types import FrameType
from typing import Any

from joulelab.integrations.callback import EnergyHooks
from joulelab.integrations.metrics import Metrics, stage_energy, stage_metrics

try:
    from keras.callbacks import Callback, CallbackList, History
except ImportError as error:
    raise ImportError(
        f"Keras cannot be imported ({error}); run pip install 'joulelab[integrations]', "
        "and set KERAS_BACKEND=torch if TensorFlow is not installed"
    ) from error

PREFIX = "energy_"
LOGGED = (
    "epoch_gross_j", "epoch_gross_wh", "epoch_net_j", "epoch_job_j", "epoch_carbon_g",
    "mean_power_w", "total_gross_j", "total_gross_wh", "total_carbon_g",
)  # fmt: skip
"""Metrics in Keras's own logs and history."""

Logs = Metrics | None


class EnergyCallback(EnergyHooks, Callback):  # type: ignore[misc]
    """Records what a Keras model does, and adds its energy to the history next to the loss.

    The spans are ``fit`` > ``epoch`` > ``step`` and ``validate``, and ``test`` and ``predict`` on
    their own. A ``step`` is one step of the optimizer, with all the batches that it accumulates, or
    as many steps as Keras executes at a time.

    What a model does with this callback within a call of another one is part of that call.

    The energy of an epoch is in its logs if it is computed at its end. Others are added to the
    model's history later.

    Keras does not report failures to callbacks. Spans that a failure leaves open end with
    :meth:`close` or at the end of a ``with`` block of this callback. Otherwise they count until the
    last hook before the failure, and the next call says so in a warning.

    The arguments are those of :class:`~joulelab.integrations.callback.EnergyHooks`; the forecast is
    only in ``history``.
    """

    _batches = _batches_before = 0
    _accumulated = 1
    _by_epoch: dict[float, Metrics]
    _saved: History | None = None
    _callbacks: weakref.ref[CallbackList] | None = None  # of the measured call

    def close(self) -> None:
        """End all open spans and the recording, and compute the remaining metrics."""
        self._has_fit()
        self._spans.end_all()
        if self._fit is not None:
            for epoch, row in self._fit.new_metrics(now=True):
                self._add(epoch.epoch, row)
            self._complete_history()
            self._add_stage(self._end_fit())
        super().close()

    def set_model(self, model: Any) -> None:
        called_by = sys._getframe(1).f_locals.get("self")
        if isinstance(called_by, CallbackList):
            outer = None if self._callbacks is None else self._callbacks()
            if self._spans.is_open and called_by is not outer and _is_running(outer):
                # The loop that called this continues with the old list.
                called_by.callbacks = [one for one in called_by.callbacks if one is not self]
                return
            self._callbacks = weakref.ref(called_by)
        super().set_model(model)

    def set_params(self, params: dict[str, Any]) -> None:
        # Keras sets them when a call of the model begins, and not for validation within a fit.
        self._begin_call()
        super().set_params(params)

    def on_train_begin(self, logs: Logs = None) -> None:
        if self._spans.find("fit") is not None:
            return  # the model has this callback twice
        self._spans.begin("fit")
        self._by_epoch = {}
        self._saved = getattr(self.model, "history", None)
        optimizer: Any = getattr(self.model, "optimizer", None)
        self._accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        # Batches that were accumulated before this fit count towards its first step.
        before = int(optimizer._iterations) if self._accumulated > 1 else 0
        self._batches = before % self._accumulated

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self._fit is None:
            total = self.params.get("epochs") if self._forecast else None
            self._fit = self._begin_fit(total_epochs=total - epoch if total else math.inf)
        if self._fit.in_epoch:
            return
        self._complete_history()
        self._batches_before = self._batches
        self._fit.begin_epoch(epoch, self._step)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self._steps and self._spans.find("step") is None:
            self._spans.begin("step", index=self._step)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        step = self._step
        self._batches = self._batches_before + batch + 1
        if self._step != step:
            self._spans.end("step")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._fit is None:
            return
        self._fit.end_epoch(epoch, self._step)
        # Callbacks that write tables take their columns from the first epoch.
        for ended, row in self._fit.new_metrics(now=not self._by_epoch):
            self._add(ended.epoch, row)
            if ended.epoch == epoch and logs is not None:
                logs |= self._by_epoch[epoch]

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

    @property
    def _step(self) -> int:
        """Number of finished steps of the optimizer."""
        return self._batches // self._accumulated

    def _end_stage(self, name: str) -> None:
        span = self._spans.end(name)
        if span is not None and self._spans.find("fit") is None:
            self._add_stage(stage_metrics(name, span, stage_energy(span)))
            self._spans.close()

    def _add(self, epoch: float, row: Metrics) -> None:
        row = self._in_units(row)
        self.history.append(row | {"epoch": epoch})
        self._by_epoch[epoch] = {PREFIX + name: row[name] for name in LOGGED if name in row}

    def _complete_history(self) -> None:
        """Add the energies of earlier epochs to Keras's history, one value for each epoch."""
        if self._saved is None:
            return
        for name in dict.fromkeys(name for row in self._by_epoch.values() for name in row):
            self._saved.history[name] = [
                self._by_epoch.get(epoch, {}).get(name, math.nan) for epoch in self._saved.epoch
            ]

    def _show(self, lines: Sequence[str]) -> None:
        if self.params.get("verbose"):
            super()._show(lines)

    def _add_stage(self, row: Metrics) -> None:
        if row:
            self.history.append(self._in_units(row))


def _is_running(callbacks: CallbackList | None) -> bool:
    """Whether a call with these callbacks has not returned yet, of which Keras gives no notice."""
    frame: FrameType | None = sys._getframe() if callbacks is not None else None
    while (frame := frame and frame.f_back) is not None:
        if any(value is callbacks for value in frame.f_locals.values()):
            return True
    return False
