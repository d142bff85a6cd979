"""What time a reading stands for."""

import numpy as np
import pytest

from joulelab.llm.sensor_response import PowerReadings, Response, refined, responses

EDGES_S = np.array([0.0, 10.0, 20.0])
INTEGRAL_J = np.array([0.0, 0.0, 1000.0])  # 100 W from 10 s on.


def readings(t_s, value=0.0, period_s=0.1, *, is_counter=False):
    t_s = np.asarray(t_s, dtype=float)
    return PowerReadings(
        t_s - period_s, t_s, np.broadcast_to(value, t_s.shape), is_counter, period_s
    )


def mean(response, t_s):
    return response.mean(readings(t_s), EDGES_S, INTEGRAL_J)


def test_window_ends_a_delay_before_the_timestamp():
    assert mean(Response(1.0), [10.0, 10.25, 11.0]) == pytest.approx([0, 25, 100])
    assert mean(Response(1.0, 0.5), [10.5, 10.75, 11.5]) == pytest.approx([0, 25, 100])


def test_lag_is_exponential():
    t_s = np.array([10.1, 10.3, 10.6, 11.2])
    expected = 100 * (1 - np.exp(-(t_s - 10) / 0.3))
    assert mean(Response(0.0, 0.0, 0.3), t_s) == pytest.approx(expected, abs=2.0)


def test_counter_gives_the_mean_between_its_readings():
    found = Response(0.0).mean(readings([10.05], is_counter=True), EDGES_S, INTEGRAL_J)
    assert found == pytest.approx([50.0])


@pytest.mark.parametrize(
    "true", [Response(0.1), Response(1.0), Response(0.3, 0.45), Response(0.0, 0.0, 0.4)]
)
def test_response_is_found_from_power(true):
    rng = np.random.default_rng(0)
    edges_s = np.concatenate(([0.0], np.cumsum(rng.uniform(0.1, 2.0, 80))))
    integral = np.concatenate(([0.0], np.cumsum(np.diff(edges_s) * rng.uniform(0, 100, 80))))
    read = readings(np.arange(3.0, edges_s[-1], 0.1))
    net_w = true.mean(read, edges_s, integral) + rng.normal(0, 0.5, read.until_s.size)

    def loss(response):
        return float(np.sum((response.mean(read, edges_s, integral) - net_w) ** 2))

    start = min(responses(read, Response(0.1)), key=loss)
    found = refined(start, read, loss)[1]
    assert found.mean_age_s == pytest.approx(true.mean_age_s, abs=0.02)
    assert found.window_s + 2 * found.lag_s == pytest.approx(
        true.window_s + 2 * true.lag_s, abs=0.1
    )
