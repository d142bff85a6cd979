import functools
import json
import math
from dataclasses import replace
from pathlib import Path

import fake_nvml
import numpy as np
import pytest
from fake_nvml import FakeGpu, FakeNvml
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator, energies_of
from joulelab.errors import UserError
from joulelab.logs.calibrate import calibrate, check, read_marks, read_one
from joulelab.logs.calibration_fit import MeterLog, fit, robust_covariance, robust_line
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import as_log
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors import calibration as saved
from joulelab.sensors.nvml import discover_gpus
from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading

DATA = Path(__file__).parent / "data"
COLUMNS = ("power_draw_w", "power_draw_average_w", "power_draw_instant_w")

pytestmark = pytest.mark.usefixtures("home")


def sensor_log(name, column):
    options = LogOptions(power_columns=[column])
    return read_one(DATA / f"{name}_nvidia_smi.csv.gz", options, [])


def meter_log(name):
    return read_one(DATA / f"{name}_meter.csv.gz", LogOptions(), [])


@functools.cache
def calibrated(name, column):
    files = [DATA / f"{name}_nvidia_smi.csv.gz", DATA / f"{name}_meter.csv.gz"]
    sensor, meter = sensor_log(name, column), meter_log(name)
    return calibrate(
        sensor, meter, files, board_name="RTX 3090", board_uuid="GPU-3090", driver="530.30"
    )


# Real boards and a real meter.


@pytest.mark.parametrize("column", COLUMNS)
def test_calibration_from_one_log_corrects_another(column):
    found = calibrated("rtx3090_steps", column)
    marks_s = read_marks(DATA / "rtx3090_square_marks.csv")
    seen = check(sensor_log("rtx3090_square", column), meter_log("rtx3090_square"), found, marks_s)
    assert seen.meter_j == pytest.approx(2389.4, abs=0.3)
    assert seen.before_pct < -5
    assert abs(seen.after_pct) < 1.0


@pytest.mark.parametrize(
    ("name", "column"),
    [*(("rtx3090_steps", c) for c in COLUMNS), *(("rtx3090_square", c) for c in COLUMNS),
        ("k40m_steps", "power_draw_w")],
)  # fmt: skip
def test_interval_without_calibration_covers_the_truth(name, column):
    log = as_log([sensor_log(name, column)])
    start_s, stop_s = read_marks(DATA / f"{name}_marks.csv")
    truth = MeterLog.of_power(meter_log(name).t_s, meter_log(name).value).energy(start_s, stop_s)
    edges = (round((t - log.origin_s) * 1e9) for t in (start_s, stop_s))
    [energy] = energies_of(log.trace, [Window(*edges)])
    low_j, high_j = energy.interval_j
    assert low_j < truth < high_j


def test_board_that_reads_high():
    found = calibrated("k40m_steps", "power_draw_w")
    assert 1.0 < found.gain < 1.05
    assert found.gain_uncertainty == pytest.approx(0.01, rel=0.05)
    marks_s = read_marks(DATA / "k40m_steps_marks.csv")
    seen = check(sensor_log("k40m_steps", "power_draw_w"), meter_log("k40m_steps"), found, marks_s)
    assert seen.before_pct > 3
    assert abs(seen.after_pct) < 0.5


# Sensors with a known truth.


def waveform(rng, duration_s=40.0):
    """Power that steps at random times between random levels, on a 1 ms grid."""
    t_s = np.arange(0, duration_s, 0.001)
    steps = np.cumsum(rng.uniform(0.3, 3.0, 300))
    levels = rng.uniform(60, 400, 301)
    return t_s, levels[np.searchsorted(steps, t_s)]


def readings(rng, t_s, power, *, gain, offset_w, delay_s, window_s, period_s, noise_w, poll_s):
    meter = MeterLog.of_power(t_s, power)
    new_s = np.arange(2.0, t_s[-1] - 1.0, period_s)
    value = gain * meter.mean_power(new_s - delay_s, window_s) + offset_w
    value = (value + rng.normal(0, noise_w, value.size)).round(2)
    polls_s = np.arange(new_s[0], new_s[-1], poll_s) + rng.uniform(0, poll_s)
    return polls_s, value[np.searchsorted(new_s, polls_s, side="right") - 1], meter


@settings(max_examples=10, deadline=None)
@given(
    gain=st.floats(0.87, 1.06),
    offset_w=st.floats(-6, 6),
    delay_s=st.floats(-0.2, 0.3),
    sensor=st.sampled_from([(0.025, 0.1), (0.1, 0.1), (1.0, 0.1), (0.02, 0.02)]),
    seed=st.integers(0, 10_000),
)
def test_fit_recovers_the_simulated_sensor(gain, offset_w, delay_s, sensor, seed):
    rng = np.random.default_rng(seed)
    window_s, period_s = sensor
    t_s, power = waveform(rng)
    polls_s, value, meter = readings(
        rng, t_s, power, gain=gain, offset_w=offset_w, delay_s=delay_s, window_s=window_s,
        period_s=period_s, noise_w=0.5, poll_s=period_s / 12,
    )  # fmt: skip
    found = fit(polls_s, value, meter)
    assert found.gain == pytest.approx(gain, rel=0.01)
    assert found.offset_w == pytest.approx(offset_w, abs=2.0)
    # The middle of the window is known best.
    assert found.delay_s + found.window_s / 2 == pytest.approx(delay_s + window_s / 2, abs=0.02)
    assert found.update_period_s == pytest.approx(period_s, rel=0.1)


def test_standard_uncertainty_of_gain_matches_the_scatter():
    off = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        t_s, power = waveform(rng, 30.0)
        polls_s, value, meter = readings(
            rng, t_s, power, gain=0.95, offset_w=2.0, delay_s=0.03, window_s=0.1, period_s=0.1,
            noise_w=3.0, poll_s=0.011,
        )  # fmt: skip
        found = fit(polls_s, value, meter)
        off.append((found.gain - 0.95) / np.sqrt(found.covariance[0, 0]))
    assert 0.5 < np.sqrt(np.mean(np.square(off))) < 1.8


def test_fit_tolerates_lost_and_wild_readings():
    rng = np.random.default_rng(5)
    t_s, power = waveform(rng, 20.0)
    polls_s, value, meter = readings(
        rng, t_s, power, gain=0.95, offset_w=2.0, delay_s=0.0, window_s=0.1, period_s=0.1,
        noise_w=0.5, poll_s=0.01,
    )  # fmt: skip
    wild = rng.random(value.size) < 0.02
    value = np.where(wild, rng.uniform(0, 900, value.size), value)
    value[500:700] = np.nan
    assert fit(polls_s, value, meter).gain == pytest.approx(0.95, rel=0.01)


def test_autocorrelated_residuals_increase_the_uncertainty():
    rng = np.random.default_rng(0)
    x = rng.uniform(100, 400, 3000)
    design = np.column_stack((x, np.ones_like(x)))
    weight = np.ones_like(x)
    white = rng.normal(0, 1, 3000)
    slow = np.repeat(rng.normal(0, 1, 60), 50)
    sorted_design = design[np.argsort(x)]
    from_white = robust_covariance(sorted_design, white, weight)[0, 0]
    from_slow = robust_covariance(sorted_design, slow, weight)[0, 0]
    assert from_slow > 10 * from_white


def test_line_without_noise_is_exact():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    slope, intercept, _ = robust_line(x, 2 * x + 1)
    assert (slope, intercept) == (pytest.approx(2), pytest.approx(1))


def fitted(t_s, value, meter_t_s, meter_w):
    return fit(t_s, value, MeterLog.of_power(meter_t_s, meter_w))


def test_logs_that_cannot_be_compared():
    rng = np.random.default_rng(0)
    t_s, power = waveform(rng)
    polls_s = np.arange(2, 38, 0.1)
    value = 0.95 * np.interp(polls_s, t_s, power) + rng.normal(0, 0.5, polls_s.size)
    with pytest.raises(UserError, match="overlap too little"):
        fitted(polls_s + 1000, value, t_s, power)
    with pytest.raises(UserError, match="varies too little"):
        fitted(polls_s, 100 + rng.normal(0, 0.2, polls_s.size), t_s, 100 + 0.001 * power)
    with pytest.raises(UserError, match="do not follow"):
        fitted(polls_s, value * 1000, t_s, power)
    with pytest.raises(UserError, match="does not cover the marks"):
        check(
            sensor_log("k40m_steps", "power_draw_w"),
            meter_log("k40m_steps"),
            calibrated("k40m_steps", "power_draw_w"),
            [0.0, 99.0],
        )


# Energy from calibrated channels.


def channel(source="nvml.samples", **changes):
    given = Channel(
        component="gpu:0", quantity=Quantity.POWER, source=source, provenance=Provenance.MEASURED,
        update_period_s=0.02, window_s=0.02, gain_uncertainty=0.065,
    )  # fmt: skip
    return replace(given, **changes)


def test_power_and_counters_are_corrected():
    power = channel(gain=0.95, offset_w=5.0)
    counter = replace(power, quantity=Quantity.ENERGY, component="gpu:1", window_s=0.0)
    records = [Reading(i * 20_000_000, 0, 195.0) for i in range(500)]
    records += [Reading(i * 20_000_000, 1, 195.0 * 0.02 * i) for i in range(500)]
    estimator = EnergyEstimator(Trace.of([power, counter], records))
    [energy] = estimator.energies([Window(10**9, 9 * 10**9)])
    assert energy.components["gpu:0"].gross_j == pytest.approx(1600.0)
    assert energy.components["gpu:1"].gross_j == pytest.approx(1600.0)


def test_gain_must_be_positive():
    with pytest.raises(ValueError, match="gain must be positive"):
        channel(gain=0.0)


# Saved calibrations.


def test_saved_calibration_is_applied_to_its_board_and_named(monkeypatch):
    found = calibrated("rtx3090_steps", "power_draw_instant_w")
    path = saved.save_calibration(found)
    assert saved.read_calibration(path) == found
    [of_sensor, of_meter] = found.files
    assert of_meter["name"] == "rtx3090_steps_meter.csv.gz"
    assert len(of_sensor["sha256"]) == 64
    gpus = [FakeGpu("GPU-3090", ring=None, unsupported={"nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetSamples"}), FakeGpu("GPU-other")]  # fmt: skip
    for gpu in gpus:
        if gpu.ring is not None:
            gpu.fill_ring()
    fake_nvml.install(monkeypatch, FakeNvml(gpus))
    sensors, absent = discover_gpus()
    instant, usage = (c for c in sensors[0].channels if c.gives_energy)
    assert instant.source == f"nvml.power_instant.calibrated-{found.date}"
    assert (instant.gain, instant.offset_w) == (found.gain, found.offset_w)
    assert instant.delay_s == found.delay_s
    assert f"calibrated on {found.date} against rtx3090_steps_meter.csv.gz" in instant.note
    assert usage.gain == found.gain
    assert usage.gain_uncertainty > instant.gain_uncertainty
    assert usage.delay_s == 0
    assert "(by nvml.power_instant)" in usage.note
    assert all(c.gain == 1 and c.offset_w == 0 for c in sensors[1].channels)
    assert all(c.gain == 1 for c in sensors[0].channels if not c.gives_energy)
    assert not any(absence.component == "calibration" for absence in absent)
    for sensor in sensors:
        sensor.close()


def test_calibration_of_the_same_source_has_priority():
    base = calibrated("k40m_steps", "power_draw_w")
    own = replace(base, source="nvml.samples", gain=0.9, gain_uncertainty=0.02)
    saved.save_calibration(own)
    saved.save_calibration(replace(base, gain=0.95))
    (applied, counter), absent = saved.calibrated(
        [channel(), channel("nvml.energy_counter", quantity=Quantity.ENERGY)], base.board_uuid
    )
    assert (applied.gain, counter.gain) == (0.9, 0.95)
    assert absent == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema": "other"}',
        b'{"schema": "joulelab-calibration-1"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_unreadable_calibration_is_reported_and_ignored(content):
    directory = saved.calibrations_directory()
    directory.mkdir(parents=True)
    (directory / "broken.json").write_bytes(content)
    (unchanged,), [absence] = saved.calibrated([channel()], "GPU-a")
    assert unchanged == channel()
    assert "broken.json" in str(absence)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gain", 0.0),
        ("gain", None),
        ("gain", math.nan),
        ("gain", 1e300),
        ("gain", True),
        ("delay_s", "soon"),
        ("update_period_s", -1.0),
        ("gain_uncertainty", -0.1),
        ("covariance", [[None]]),
        ("board_uuid", 5),
        ("files", {"a": 1}),
    ],
)
def test_impossible_values_are_refused(tmp_path, name, value):
    content = calibrated("k40m_steps", "power_draw_w").to_json() | {name: value}
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not a calibration"):
        saved.read_calibration(path)


def test_clock_offset_is_not_used_as_delay():
    found = calibrated("k40m_steps", "power_draw_w")
    power = channel("nvml.power_usage", polled=True)
    assert found.apply(power).delay_s == found.delay_s
    assert replace(found, delay_s=0.4).apply(power).delay_s == 0


def test_other_sensors_are_not_calibrated():
    found = calibrated("k40m_steps", "power_draw_w")
    rapl = channel("rapl.package-0", quantity=Quantity.ENERGY)
    assert not found.fits(rapl)
    with pytest.raises(ValueError, match="does not apply"):
        found.apply(rapl)


@pytest.mark.parametrize(
    ("meter_hz", "window_s", "delay_s", "gain"),
    [
        (1.0, 0.025, 0.0, 0.9), (1.0, 0.5, 0.3, 1.1), (1.0, 1.0, 1.0, 0.9),
        (10.0, 0.025, 0.0, 1.1), (10.0, 0.5, 0.3, 0.9), (10.0, 1.0, 1.0, 1.1),
    ],
)  # fmt: skip
def test_slow_meter_determines_gain_and_offset(meter_hz, window_s, delay_s, gain):
    """Means over a second do not resolve changes, so only steady power is used."""
    rng = np.random.default_rng(7)
    t_s = np.arange(0.0, 160.0, 0.001)
    true_w = np.concatenate(
        [np.full(round(s * 1000), w) for s, w in zip(
            rng.uniform(4, 8, 40), rng.choice([60.0, 130, 210, 300], 40), strict=True
        )]
    )[: t_s.size]  # fmt: skip
    energy_j = np.concatenate(([0.0], np.cumsum(true_w) * 0.001))[:-1]

    def mean_w(stop_s, length_s):
        both = np.interp(stop_s, t_s, energy_j) - np.interp(stop_s - length_s, t_s, energy_j)
        return both / length_s

    polls_s = np.arange(4.0, 158.0, 0.1)
    reading_w = gain * mean_w(polls_s - delay_s, window_s) + 20 + rng.normal(0, 0.5, polls_s.size)
    meter_s = np.arange(2.0, 159.0, 1 / meter_hz)
    meter_w = mean_w(meter_s, 1 / meter_hz) + rng.normal(0, 0.3, meter_s.size)
    found = fit(polls_s, reading_w, MeterLog.of_power(meter_s, meter_w), 2.0)
    gain_off, offset_off = np.sqrt(np.diag(found.covariance))[:2]
    assert found.gain == pytest.approx(gain, abs=3.5 * gain_off)
    assert found.offset_w == pytest.approx(20.0, abs=3.5 * offset_off)
    assert gain_off < 0.003
    assert found.delay_s + found.window_s / 2 == pytest.approx(
        delay_s + window_s / 2, abs=2 * np.sqrt(found.covariance[2, 2])
    )
    assert found.window_resolved is False or found.window_s == pytest.approx(window_s, rel=0.1)
