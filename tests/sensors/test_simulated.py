"""The simulated machine: its waveforms are known exactly, and its sensors as specified."""

import math
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.sensors.sensor import Gap, Provenance, Sensor
from joulelab.sensors.simulated import (
    SimulatedMachine,
    SimulatedSource,
    Waveform,
    simulated_sensors,
)

times = st.floats(0, 1e6)
waves = st.sampled_from(
    [
        Waveform.constant(250),
        Waveform.square(low_w=100, high_w=600, period_s=0.2, duty=0.3),
        Waveform.ramp(low_w=40, high_w=500, period_s=3.0),
        Waveform.steps([100, 350, 200, 700], step_s=0.35),
    ]
)


@given(waves, times, st.floats(0, 10), st.floats(0, 10))
def test_energy_adds_up(wave, start, first, second):
    whole = wave.energy_j(start, start + first + second)
    parts = wave.energy_j(start, start + first) + wave.energy_j(
        start + first, start + first + second
    )
    assert math.isclose(whole, parts, rel_tol=1e-6, abs_tol=1e-3)


@given(waves, st.floats(0, 100), st.floats(1e-3, 5))
def test_energy_is_the_sum_of_power(wave, start, length):
    n = 4000
    sum_j = sum(wave.power_w(start + (i + 0.5) * length / n) for i in range(n)) * length / n
    highest = max(power for _, power in wave.points)
    assert abs(sum_j - wave.energy_j(start, start + length)) < 4 * highest * length / n * (
        2 + length / wave.period_s
    )


@pytest.mark.parametrize("points", [(), ((0, 1),), ((1, 1), (2, 1)), ((0, 1), (2, 1), (1, 1))])
def test_an_invalid_waveform_is_refused(points):
    with pytest.raises(ValueError, match="waveform"):
        Waveform(points)


def test_samples_are_means_of_their_windows_and_are_given_once():
    source = SimulatedSource(
        component="gpu:0", waveform=Waveform.ramp(low_w=0, high_w=100, period_s=2.0)
    )
    first = source.readings(0, 10**8)
    second = source.readings(10**8, 2 * 10**8)
    stamps = [reading.t_ns for reading in first + second]
    assert stamps == [i * 20_000_000 for i in range(1, 11)]
    assert first[0].value == pytest.approx(1.0)
    assert second[-1].value == pytest.approx(19.0)


def test_a_polled_value_is_the_latest_however_often_it_is_read():
    source = SimulatedSource(
        component="gpu:0",
        waveform=Waveform.ramp(low_w=0, high_w=100, period_s=2.0),
        kind="power",
        update_period_s=0.1,
        window_s=0.0,
    )
    values = [source.readings(0, t * 10**6)[0].value for t in (310, 350, 399, 401)]
    assert values == pytest.approx([30.0, 30.0, 30.0, 40.0])


def test_a_counter_wraps():
    source = SimulatedSource(
        component="cpu:0",
        waveform=Waveform.constant(100),
        kind="counter",
        update_period_s=0.001,
        wrap_j=1000.0,
    )
    assert source.readings(0, 9_995_000_000)[0].value == pytest.approx(999.5)
    assert source.readings(0, 10_005_000_000)[0].value == pytest.approx(0.5)


def test_a_lost_sensor_gives_gaps_and_no_zero():
    source = SimulatedSource(
        component="gpu:0", waveform=Waveform.constant(100), lost_s=((1.0, 2.0),)
    )
    assert all(isinstance(one, Gap) for one in source.readings(10**9, 1_500_000_000))


def test_a_machine_is_restored_from_its_spec():
    machine = SimulatedMachine.default()
    assert SimulatedMachine.from_spec(machine.spec()) == machine
    assert SimulatedMachine.from_spec("simulated") == machine


def test_its_sensors_are_labelled_as_simulated():
    for sensor in simulated_sensors("simulated"):
        assert isinstance(sensor, Sensor)
        assert all(channel.provenance is Provenance.SIMULATED for channel in sensor.channels)
        assert all("simulated" in channel.source for channel in sensor.channels)
        sensor.close()


def test_boards_have_the_errors_that_their_channels_state():
    source = SimulatedSource(
        component="gpu:0",
        waveform=Waveform.constant(200),
        gain_uncertainty=0.05,
        offset_uncertainty_w=3.0,
    )
    drawn = [source.drawn(seed) for seed in range(2000)]
    # The stated uncertainty is the distance of the truth from the reading.
    off = [(200 / (one.value(1) - one.offset_w) - 1) / 0.05 for one in drawn]
    zero = [one.offset_w / 3.0 for one in drawn]
    for deviates in (off, zero):
        assert abs(fmean(deviates)) < 0.1
        assert pstdev(deviates) == pytest.approx(1.0, abs=0.05)
    assert drawn[0].channel().offset_uncertainty_w == 3.0


def test_the_same_seed_gives_the_same_machine():
    machine = SimulatedMachine.from_spec("simulated:7")
    assert machine == SimulatedMachine.default(7)
    assert machine != SimulatedMachine.default()
    assert machine.energy_j(0.0, 10.0) == SimulatedMachine.default().energy_j(0.0, 10.0)


@pytest.mark.parametrize("text", ["simulated:{", "simulated:[1]", 'simulated:[{"component":"x"}]'])
def test_an_invalid_spec_is_an_error_of_one_line(text):
    with pytest.raises(UserError) as caught:
        SimulatedMachine.from_spec(text)
    assert "\n" not in str(caught.value)
