"""The Keras callback in real trainings of a second or less, with the PyTorch backend."""

import math

import numpy as np
import pytest

import joulelab

pytest.importorskip("torch")
keras = pytest.importorskip("keras")

from joulelab.forecast import loop  # noqa: E402
from joulelab.integrations.keras import EnergyCallback  # noqa: E402

X, Y = np.zeros((20, 8), "float32"), np.zeros((20, 1), "float32")


class FailAt(keras.callbacks.Callback):
    def __init__(self, step, error):
        super().__init__()
        self.left, self.error = step, error

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise self.error("now")


@pytest.fixture
def model():
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    return model


def fit(model, *callbacks, **options):
    defaults = {"batch_size": 4, "epochs": 2, "verbose": 0}
    return model.fit(X, Y, callbacks=list(callbacks), **(defaults | options))


EPOCH = ["epoch", *[["step"]] * 5]


def test_a_fit_has_epochs_steps_and_validations(model, spans_of):
    callback = EnergyCallback()
    fit(model, callback, validation_data=(X, Y))
    assert spans_of(callback.meter) == [["fit", *[[*EPOCH, ["validate"]]] * 2]]


def test_energy_is_in_the_history_with_the_loss(model, energy_of):
    callback = EnergyCallback()
    history = fit(model, callback, epochs=3).history
    assert {len(values) for values in history.values()} == {3}
    assert set(history) == {
        "loss",
        "energy_epoch_gross_j",
        "energy_mean_power_w",
        "energy_total_gross_j",
    }
    epochs = callback.meter.spans_named("epoch")
    expected = [energy_of(span) for span in epochs]
    assert history["energy_epoch_gross_j"] == pytest.approx(expected, rel=1e-3)
    assert history["energy_total_gross_j"] == pytest.approx(np.cumsum(expected), rel=1e-3)
    [whole] = callback.meter.spans_named("fit")
    assert callback.history[-1]["fit_gross_j"] == pytest.approx(energy_of(whole), rel=1e-3)


def test_an_epoch_is_logged_at_its_end_if_that_costs_little(model, monkeypatch):
    monkeypatch.setattr(loop, "COST_SHARE", math.inf)
    seen = []
    after = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(logs["energy_epoch_gross_j"])
    )
    callback = EnergyCallback()
    history = fit(model, callback, after, epochs=3).history
    assert history["energy_epoch_gross_j"] == seen
    assert all(gross_j > 0 for gross_j in seen)
    assert "forecast_gross_j" in callback.history[0]


def test_a_metric_is_nan_until_it_is_computed(model):
    seen = []
    after = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(logs["energy_epoch_gross_j"])
    )
    fit(model, EnergyCallback(), after)
    assert all(math.isnan(gross_j) for gross_j in seen)


# A warning of Keras and NumPy about PyTorch's tensors.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_evaluation_and_prediction_on_their_own(model, spans_of):
    callback = EnergyCallback()
    model.evaluate(X, Y, verbose=0, callbacks=[callback])
    assert spans_of(callback.meter) == [["test"]]
    model.predict(X, verbose=0, callbacks=[callback])
    assert spans_of(callback.meter) == [["predict"]]
    assert [next(iter(row)) for row in callback.history] == ["test_gross_j", "predict_gross_j"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_spans_and_meter_end_with_an_error(model, spans_of, error):
    callback = EnergyCallback()
    with pytest.raises(error), callback:
        fit(model, callback, FailAt(7, error))
    assert spans_of(callback.meter) == [["fit", EPOCH, ["epoch", ["step"], ["step"]]]]
    assert callback.history[-1]["fit_gross_j"] > 0
    fit(model, callback)
    assert spans_of(callback.meter) == [["fit", EPOCH, EPOCH]]


def test_a_resumed_training_continues_its_numbering_with_a_given_meter(model, spans_of):
    with joulelab.Meter() as meter:
        fit(model, EnergyCallback(meter), epochs=1)
        fit(model, EnergyCallback(meter), epochs=3, initial_epoch=1)
        with meter.span("after"):
            pass
    assert spans_of(meter) == [["fit", EPOCH], ["fit", EPOCH, EPOCH], ["after"]]
    indices = [span.attributes["index"] for span in meter.spans_named("epoch")]
    assert indices == [0, 1, 2]
