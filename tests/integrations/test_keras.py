"""The Keras callback in real trainings of a second or less, with the PyTorch backend."""

import contextlib
import math
import time

import numpy as np
import pytest

import joulelab

pytest.importorskip("torch")
keras = pytest.importorskip("keras")

from joulelab.forecast import loop  # noqa: E402
from joulelab.integrations.keras import EnergyCallback  # noqa: E402

X, Y = np.zeros((20, 8), "float32"), np.zeros((20, 1), "float32")


# A warning of Keras and NumPy about PyTorch's tensors.
ignore_copy_warning = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)


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


def test_energy_is_in_the_history_with_the_loss(model, energy_of, energy_until):
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
    [whole] = callback.meter.spans_named("fit")
    totals = [energy_until(whole, span) for span in epochs]
    assert history["energy_total_gross_j"] == pytest.approx(totals, rel=1e-3)
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


@ignore_copy_warning
def test_logs_and_progress_have_only_known_metrics(model, tmp_path, capsys):
    seen = []
    after = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
    table = tmp_path / "log.csv"
    callback = EnergyCallback()
    history = fit(
        model, callback, after, keras.callbacks.CSVLogger(table), epochs=3, verbose=2
    ).history
    assert [("energy_epoch_gross_j" in logs) for logs in seen] == [True, False, False]
    assert "energy_epoch_gross_j" in table.read_text().partition("\n")[0]
    assert all(math.isfinite(value) for values in history.values() for value in values)
    assert history["energy_epoch_gross_j"][0] == seen[0]["energy_epoch_gross_j"]
    shown = capsys.readouterr()
    assert "nan" not in shown.out
    assert shown.err.startswith("joulelab: ")


def test_a_step_contains_all_the_batches_that_it_accumulates(model, spans_of, check_sums):
    model.compile(optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2), loss="mse")
    callback = EnergyCallback()
    fit(model, callback)
    assert spans_of(callback.meter) == [["fit", *[["epoch", *[["step"]] * 3]] * 2]]
    steps = callback.meter.spans_named("step")
    # Keras goes on accumulating in the next epoch.
    assert [step.attributes["index"] for step in steps] == [0, 1, 2, 2, 3, 4]
    assert int(model.optimizer.iterations) == 5
    check_sums(callback.meter)
    fit(model, callback, epochs=1, batch_size=20)
    fit(model, callback, epochs=1)
    steps = callback.meter.spans_named("step")
    assert [step.attributes["index"] for step in steps] == [0, 1, 2]


def test_a_fit_of_no_epochs_has_a_total(model, energy_of):
    callback = EnergyCallback()
    fit(model, callback, epochs=0)
    [row] = callback.history
    assert row["fit_gross_j"] == pytest.approx(energy_of(*callback.meter.spans_named("fit")))
    assert row["fit_other_gross_j"] == row["fit_gross_j"]


def test_a_callback_that_a_model_has_twice_counts_once(model, spans_of, check_sums):
    callback = EnergyCallback()
    history = fit(model, callback, callback)
    assert spans_of(callback.meter) == [["fit", EPOCH, EPOCH]]
    check_sums(callback.meter)
    assert len(history.history["energy_epoch_gross_j"]) == 2
    assert sum("fit_gross_j" in row for row in callback.history) == 1


@pytest.mark.parametrize("call", ["fit", "evaluate", "failing fit"])
@pytest.mark.parametrize("hook", ["on_train_begin", "on_train_batch_end", "on_epoch_end"])
@ignore_copy_warning
def test_what_other_models_do_within_a_fit_is_part_of_it(
    model, spans_of, check_sums, energy_of, hook, call
):
    callback = EnergyCallback()

    def run(*_, **__):
        failing = [FailAt(2, RuntimeError)] if call == "failing fit" else []
        other = keras.models.clone_model(model)
        other.compile(optimizer="sgd", loss="mse")
        with contextlib.suppress(RuntimeError):
            getattr(other, call.split()[-1])(X, Y, verbose=0, callbacks=[callback, *failing])

    fit(model, callback, type("Other", (keras.callbacks.Callback,), {hook: run})())
    assert spans_of(callback.meter) == [["fit", EPOCH, EPOCH]]
    check_sums(callback.meter)
    *epochs, row = callback.history
    assert [one["epoch"] for one in epochs] == [0, 1]
    fits = callback.meter.spans_named("fit")
    assert row["fit_gross_j"] == pytest.approx(energy_of(*fits), rel=1e-3)
    assert callback.model is model


def test_an_early_stop_ends_the_fit(model, spans_of, check_sums):
    callback = EnergyCallback()
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=1)
    fit(model, callback, stop, epochs=9, validation_data=(X, Y))
    assert spans_of(callback.meter) == [["fit", *[[*EPOCH, ["validate"]]] * 2]]
    check_sums(callback.meter)


@ignore_copy_warning
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


@ignore_copy_warning
@pytest.mark.parametrize("call", ["fit", "evaluate"])
def test_the_time_after_an_unnoticed_error_does_not_count(model, call):
    with joulelab.Meter() as meter:
        callback = EnergyCallback(meter)
        with pytest.raises(RuntimeError):
            fit(model, callback, FailAt(7, RuntimeError))
        failed_ns = time.monotonic_ns()
        with pytest.warns(RuntimeWarning, match="fit ended without notice"):
            getattr(model, call)(X, Y, verbose=0, callbacks=[callback])
        first = meter.spans_named("fit")[0]
        assert first.stop_ns < failed_ns
        assert callback.history[1]["fit_gross_j"] > 0
        assert meter.spans_named("fit" if call == "fit" else "test")[-1].start_ns > failed_ns


def test_a_resumed_training_continues_its_numbering_with_a_given_meter(model, spans_of):
    with joulelab.Meter() as meter:
        fit(model, EnergyCallback(meter), epochs=1)
        fit(model, EnergyCallback(meter), epochs=3, initial_epoch=1)
        with meter.span("after"):
            pass
    assert spans_of(meter) == [["fit", EPOCH], ["fit", EPOCH, EPOCH], ["after"]]
    indices = [span.attributes["index"] for span in meter.spans_named("epoch")]
    assert indices == [0, 1, 2]


def test_a_fit_is_tuned_from_its_first_epoch_until_it_ends(model, tuning):
    callback = EnergyCallback(tune=tuning, quiet=True)
    fit(model, callback)
    assert tuning.meter is callback.meter
    assert tuning.asked[:3] == ["start quiet", *["begin an epoch in ['fit']"] * 2]
    assert tuning.asked[3].startswith("close in")


def test_the_tuning_of_a_fit_that_fails_ends_with_it(model, tuning):
    callback = EnergyCallback(tune=tuning, quiet=True)
    with callback, pytest.raises(KeyError):
        fit(model, callback, FailAt(3, KeyError))
    assert tuning.asked[-1].startswith("close in")
