"""The model of a value over settings: what it predicts, and how sure it is."""

import math

import numpy as np
import pytest

from joulelab.tune.probes import Knob
from joulelab.tune.surface import Scales, Surface, coordinates


def test_predictions_pass_through_precise_values_and_are_unsure_elsewhere():
    points = np.array([[0.0], [0.5], [1.0]])
    surface = Surface(points, np.array([1.0, 0.2, 0.6]), Scales((1e-4,), 1e-4, (0.0,)))
    means, covariances = surface.predict(np.array([[0.0], [0.5], [1.0], [0.25]]))
    assert means[:3] == pytest.approx([1.0, 0.2, 0.6], abs=2e-3)
    deviations = np.sqrt(np.diag(covariances))
    assert deviations[3] > 10 * deviations[:3].max()


def test_known_variances_make_a_measurement_count_less():
    points, values = np.array([[0.5], [0.5]]), np.array([0.0, 1.0])
    surface = Surface(points, values, Scales((0.001,), 0.001, (0.0,)), np.array([1e-6, 1.0]))
    assert surface.predict(np.array([[0.5]]))[0][0] == pytest.approx(0.0, abs=0.01)


def test_repeated_settings_separate_a_drift_from_them():
    rng = np.random.default_rng(0)
    order = np.arange(20)
    points = np.where(order % 2, 0.0, 1.0)[:, None]
    values = 0.2 * points[:, 0] + 0.03 * np.sin(order / 6) + 0.002 * rng.standard_normal(20)
    means, covariances = Surface(points, values, Scales()).predict(np.array([[0.0], [1.0]]))
    difference = means[1] - means[0]
    deviation = math.sqrt(covariances[0, 0] + covariances[1, 1] - 2 * covariances[0, 1])
    assert difference == pytest.approx(0.2, abs=0.005)
    assert deviation < 0.005


def test_levels_without_an_order_are_equally_far_apart():
    knob = Knob("precision", ("fp32", "tf32", "bf16"), "fp32")
    points = coordinates([knob], [{"precision": level} for level in knob.levels])
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    assert distances == pytest.approx(1 - np.eye(3))
