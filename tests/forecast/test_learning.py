"""Forecasts of the epoch at which a learning curve reaches a target."""

import math

import numpy as np
import pytest

from joulelab.errors import UserError
from joulelab.forecast.learning import epochs_to


def curve(rng, epochs, noise):
    ceiling, scale, slope = rng.uniform(70, 99), rng.uniform(20, 60), rng.uniform(0.3, 1.5)
    true = ceiling - scale * np.arange(1, 3000.0) ** -slope
    return ceiling, true, true[:epochs] + noise * rng.normal(size=epochs)


def test_the_interval_covers_the_epoch_that_reaches_the_target():
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        epochs = int(rng.integers(5, 20))
        ceiling, true, seen = curve(rng, epochs, rng.choice([0.1, 0.5]))
        target = ceiling - 0.6 * (ceiling - true[epochs - 1])
        if np.nanmax(seen) >= target:
            continue
        found = epochs_to(target, seen)
        if not found.reason:
            assert epochs < found.low <= found.epochs <= found.high
            covered.append(found.low <= np.argmax(true >= target) + 1 <= found.high)
    assert len(covered) > 100
    assert np.mean(covered) >= 0.9


def test_a_reached_target_is_known_exactly():
    found = epochs_to(85.0, [50.0, 80.0, 86.0, 84.0, 90.0])
    assert (found.low, found.epochs, found.high) == (3, 3, 3)


@pytest.mark.parametrize(
    ("accuracy", "reason"),
    [
        ([], "0 epochs have an accuracy"),
        ([50.0], "1 epoch has an accuracy"),
        ([50.0, 60.0, math.nan, 65.0], "3 epochs have an accuracy"),
        ([math.nan] * 8, "0 epochs have an accuracy"),
        ([90 - 40 / epoch for epoch in range(1, 12)], "below the target"),
        ([90.0 - epoch for epoch in range(10)], ""),
        ([10.0, 9.0, 11.0, 10.0, 9.5, 10.5], ""),
    ],
)
def test_there_may_be_no_forecast_yet(accuracy, reason):
    found = epochs_to(95.0, accuracy)
    assert reason in found.reason
    assert found.reason
    assert math.isnan(found.epochs)


def test_epochs_without_an_accuracy_are_ignored():
    whole = [90 - 40 / epoch for epoch in range(1, 13)]
    every_third = [value if i % 3 == 2 else math.nan for i, value in enumerate(whole)]
    every_third[0] = whole[0]
    assert epochs_to(88.0, every_third).epochs == pytest.approx(20, abs=2)


@pytest.mark.parametrize("target", [0.0, -1.0, 100.1, math.nan])
def test_a_target_must_be_a_percentage(target):
    with pytest.raises(UserError):
        epochs_to(target, [1.0] * 6)
