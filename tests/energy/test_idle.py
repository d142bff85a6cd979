"""Idle power on quiet and on busy machines, whose use and true idle power are known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from joulelab.energy.baseline import Baseline, IdlePoint, Load
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.idle import (
    OWN_LOAD,
    TYPICAL_IDLE_SHARE,
    IdleMeasurement,
    unchecked_since_ns,
)
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading
from joulelab.validation import convert

S = 10**9
THREADS = 8
COUNTER_S = 0.1
T_M = 10.0


def channel(component, quantity, period_s, **changes):
    return Channel(
        component=component,
        quantity=quantity,
        source=f"test.{component}",
        provenance=Provenance.MEASURED,
        update_period_s=period_s,
        **changes,
    )


def host(
    power_w, threads, *, seconds=40, users=(), component="cpu:0", idle_w=None, own=0.0, most_w=None
):
    """A host whose power and use by all, in threads, depend on time; ``own`` is the job's part."""
    t_s = np.arange(0, seconds, COUNTER_S)
    energy_j = np.cumsum([power_w(t) * COUNTER_S for t in t_s - COUNTER_S / 2])
    used_s = np.cumsum([threads(t) * COUNTER_S for t in t_s - COUNTER_S / 2])
    use = "cpu" if component in ("cpu:0", "node") else component
    channels = [
        channel(component, Quantity.ENERGY, COUNTER_S, idle_w=idle_w, max_power_w=most_w),
        channel(use, Quantity.USE, 1.0),
        channel(use, Quantity.JOB_USE, 1.0),
    ]
    readings = [Reading(round(t * S), 0, j) for t, j in zip(t_s, energy_j, strict=True)]
    for t, value in list(zip(t_s, used_s, strict=True))[::10]:
        readings += [Reading(round(t * S), 1, value), Reading(round(t * S), 2, own * t)]
    trace = Trace.of(channels, readings)
    event = {"event": "others", "component": use, "since_ns": 0, "t_ns": S, "more": 0}
    return replace(trace, events=({**event, "used": list(users)},) if users else ())


def measure(trace, start_s=5.0, stop_s=15.0, threads=THREADS):
    start_ns, stop_ns = round(start_s * S), round(stop_s * S)
    return IdleMeasurement(trace, start_ns, stop_ns, T_M, threads=threads)


def test_a_quiet_machine_is_measured_for_the_whole_time():
    measured = measure(host(lambda t: 20.0, lambda t: 0.001))
    point = measured.point()
    assert measured.is_quiet
    assert (point.duration_s, point.load, point.busy_w) == (10.0, {}, {})
    assert point.power_w["cpu:0"] == pytest.approx(20.0)
    assert point.uncertainty_w["cpu:0"] < 0.1


def test_a_burst_of_work_is_left_out():
    def is_busy(t):
        return 6 < t < 8

    trace = host(lambda t: 60.0 if is_busy(t) else 20.0, lambda t: 2.0 if is_busy(t) else 0.0)
    measured = measure(trace)
    assert measured.is_quiet
    assert measured.point().power_w["cpu:0"] == pytest.approx(20.0, abs=0.1)
    assert measured.point().duration_s == T_M / 2


def test_the_end_of_a_load_is_waited_for():
    trace = host(lambda t: 60.0 if t < 16 else 20.0, lambda t: 2.0 if t < 16 else 0.0)
    assert not measure(trace, stop_s=15.0).is_quiet
    assert not measure(trace, stop_s=20.0).is_quiet
    quiet = measure(trace, stop_s=23.0)
    assert quiet.is_quiet
    assert quiet.point().power_w["cpu:0"] == pytest.approx(20.0, abs=0.1)


def test_a_long_wait_is_examined_in_part_with_the_same_result():
    """What ends after the last check counts, and a quiet part of it is one of the whole pause."""
    trace = host(lambda t: 60.0, lambda t: 2.0 if t < 1191.7 else 0.0, seconds=1200)
    since_ns = unchecked_since_ns(5 * S, 1196 * S, 1198 * S, T_M)
    assert 1190 * S < since_ns <= 1191 * S
    for start_ns in (5 * S, since_ns):
        measured = IdleMeasurement(trace, start_ns, 1198 * S, T_M, threads=THREADS)
        assert measured.is_quiet
    assert unchecked_since_ns(5 * S, 5 * S, 25 * S, T_M) == 5 * S


def test_a_busy_machine_is_measured_with_doubt():
    users = [[7, "make", 1.0], [8, "stress", 2.0]]
    point = measure(host(lambda t: 60.0, lambda t: 4.0, users=users)).point()
    assert point.load == {"cpu": Load(pytest.approx(0.5), "stress (pid 8), make (pid 7)")}
    assert point.busy_w == {"cpu:0": pytest.approx(60.0)}
    half_w = 1.96 * point.uncertainty_w["cpu:0"]
    assert point.power_w["cpu:0"] + half_w == pytest.approx(60.0, abs=0.1)
    assert 0 < point.power_w["cpu:0"] - half_w < 5
    again = convert(json.loads(json.dumps(point.to_json())), IdlePoint)
    assert again == point


def test_children_that_work_while_the_program_pauses_make_it_busy():
    by_children = measure(host(lambda t: 50.0, lambda t: 2.0, own=2.0))
    assert by_children.load["cpu"].fraction == pytest.approx((2.0 - OWN_LOAD) / THREADS)
    by_recorder = measure(host(lambda t: 20.0, lambda t: 0.15, own=0.08))
    assert by_recorder.is_quiet


@pytest.mark.parametrize("component", ["gpu:0", "node"])
def test_every_component_that_others_use_is_doubtful(component):
    point = measure(host(lambda t: 60.0, lambda t: 0.5, component=component)).point()
    assert component in point.busy_w


def test_a_gpu_that_another_process_holds_is_idle_with_a_note():
    trace = host(lambda t: 60.0, lambda t: 0.0, component="gpu:0", users=[[7, "python", 0.0]])
    measured = measure(trace)
    point = measured.point()
    assert measured.is_quiet
    assert (point.load, point.busy_w) == ({"gpu:0": Load(0.0, "python (pid 7)")}, {})
    assert Baseline((point,)).notes("gpu:0", "test.gpu:0") == [
        "idle power of gpu:0 was measured while python (pid 7) held it, which may raise it"
    ]

    # It may be the one that works, where the use of each process is unknown.
    for used_s in (5.0, 0.0):
        users = [[7, "x", used_s]]
        busy = measure(host(lambda t: 60.0, lambda t: 0.5, component="gpu:0", users=users))
        assert busy.load["gpu:0"] == Load(pytest.approx(0.5), "x (pid 7)")


def test_the_idle_power_of_a_model_is_known():
    trace = host(lambda t: 60.0, lambda t: 8.0, idle_w=13.0)
    measured = measure(trace)
    point = measured.point()
    assert measured.is_quiet
    assert (point.power_w["cpu:0"], point.uncertainty_w["cpu:0"]) == (13.0, 0.0)
    assert point.load["cpu"].fraction == pytest.approx(1.0), "it is stated nevertheless"
    assert point.busy_w == {}


def test_utilisation_takes_the_place_of_unknown_use():
    trace = host(lambda t: 60.0, lambda t: 4.0)
    utilization = channel("host", Quantity.UTILIZATION, 1.0)
    readings = [Reading(t * S, 0, 50.0) for t in range(40)]
    known = Trace.of([utilization], readings)
    trace = Trace((trace.channels[0], *known.channels), (trace.series[0], *known.series))
    assert measure(trace).load["cpu"].fraction == pytest.approx(0.5)


def test_a_part_without_a_reading_of_utilisation_is_not_idle():
    """A GPU that is busy all the time, and whose utilisation is read every 4 s."""
    trace = host(lambda t: 300.0, lambda t: 0.0, component="gpu:0")
    utilization = channel("gpu:0", Quantity.UTILIZATION, 4.0)
    known = Trace.of([utilization], [Reading(t * S, 0, 100.0) for t in range(0, 40, 4)])
    trace = Trace((trace.channels[0], *known.channels), (trace.series[0], *known.series))
    for seconds in (1, 2, 10):
        measured = IdleMeasurement(trace, 9 * S, (9 + seconds) * S, seconds, threads=1)
        assert not measured.is_quiet
        assert measured.unknown == []


def test_a_part_whose_use_is_unknown_is_not_the_quietest():
    """Others use 4 threads for 7 s, then 0.2; from 10 s on that is unknown."""
    trace = host(lambda t: 60.0, lambda t: 4.0 if t < 7 else 0.2)
    use = trace.series[1]
    known = use._replace(value=np.where(use.t_ns <= 10 * S, use.value, math.nan))
    trace = Trace(trace.channels, (trace.series[0], known, trace.series[2]))
    measured = measure(trace, 0.0, 18.0)
    assert not measured.is_quiet
    assert measured.unknown == []
    assert measured.window.start_ns < 8 * S


def test_use_that_is_not_recorded_is_unknown():
    trace = host(lambda t: 60.0, lambda t: 4.0)
    assert measure(trace).unknown == []
    trace = Trace(trace.channels[:1], trace.series[:1])
    measured = measure(trace)
    assert measured.unknown == ["cpu"]
    assert measured.load == {}
    note = "idle power of cpu:0 may include what other processes used: whether any did is unknown"
    assert Baseline((measured.point(),)).notes("cpu:0", "test.cpu:0") == [note]
    modelled = Trace([replace(trace.channels[0], idle_w=13.0)], trace.series)
    assert measure(modelled).point().unknown == ()


def test_an_energy_states_that_its_idle_power_is_doubtful():
    trace = host(lambda t: 60.0, lambda t: 4.0, users=[[7, "make", 4.0]])
    baseline = Baseline((measure(trace).point(),))
    window = Window(20 * S, 30 * S)
    estimator = EnergyEstimator(trace, baseline)
    note = (
        "idle power was measured on a busy machine (50 % of the CPU used by make (pid 7)): net of "
        "idle is uncertain; measure idle again when no other process works"
    )
    (energy,) = estimator.energies([window])
    assert note in energy.notes
    assert note in estimator.total([window]).notes
    (gross,) = EnergyEstimator(trace).energies([window])
    assert note not in gross.notes
    net = baseline.subtract(gross, 20.0, 30.0)
    assert note in net.notes
    assert net.net_interval_j == pytest.approx(energy.net_interval_j)


@pytest.mark.parametrize("threads", [0.05, 4.0])
def test_the_same_load_before_and_after_a_run_is_one_error(threads):
    """Between two measurements idle power is as uncertain as in each of them."""
    trace = host(lambda t: 60.0, lambda t: threads)
    points = [measure(trace, *times).point() for times in ((5, 15), (25, 35))]
    power_w, off_w = Baseline(tuple(points)).power("cpu:0", "test.cpu:0", 20.0)
    assert power_w == pytest.approx(points[0].power_w["cpu:0"], rel=1e-3)
    assert off_w == pytest.approx(points[0].uncertainty_w["cpu:0"], rel=1e-2)


def test_a_point_of_a_quiet_machine_is_preferred():
    busy = measure(host(lambda t: 60.0, lambda t: 4.0)).point()
    quiet = measure(host(lambda t: 20.0, lambda t: 0.0)).point().at(100.0)
    baseline = Baseline((busy, quiet))
    assert baseline.power("cpu:0", "test.cpu:0", 20.0)[0] == pytest.approx(20.0, abs=0.1)
    assert baseline.notes("cpu:0", "test.cpu:0") == []


def test_what_services_add_to_idle_power_is_in_its_interval():
    threads = 0.05
    point = measure(host(lambda t: 20.0, lambda t: threads)).point()
    assert (point.power_w["cpu:0"], point.busy_w) == (pytest.approx(20.0), {})
    growth = threads / THREADS * math.sqrt(THREADS)
    least_w = 20.0 / (1 + (1 / TYPICAL_IDLE_SHARE - 1) * growth)
    assert 20.0 - 1.96 * point.uncertainty_w["cpu:0"] == pytest.approx(least_w, abs=0.05)


def test_idle_power_is_not_below_what_a_limit_leaves():
    """Use of 1 % may have raised it by a tenth of the way to full power, which is at most 60 W."""
    trace = host(lambda t: 31.0, lambda t: 0.01, component="gpu:0", most_w=60.0)
    point = measure(trace, threads=1).point()
    least_w = point.power_w["gpu:0"] - 1.96 * point.uncertainty_w["gpu:0"]
    assert least_w == pytest.approx((31.0 - 0.1 * 60.0) / 0.9, abs=0.05)


RHYTHMS = {
    "constant": lambda t: 1.0,
    "bursty": lambda t: (t % 3 < 1) * 3.0,
    "drifting": lambda t: t / 10,
    "decreasing": lambda t: max(0.0, 2 - t / 10),
}


def is_covered(seed, rhythm, load=None, threads=None, shares=(0.05, 0.6), full_w=None):
    """Whether the idle power of a host of unknown kind is in its interval, next to a load."""
    draw = np.random.default_rng(seed)
    idle_w, share = draw.uniform(2.0, 80.0), draw.uniform(*shares)
    idle_w = idle_w if full_w is None else share * full_w
    drawn, exponent = int(draw.choice([2, 8, 128])), draw.uniform(0.5, 1.0)
    threads = threads or drawn
    drawn = draw.choice([0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.1, 0.5, 0.9])
    load = drawn if load is None else load

    def threads_at(t):
        return threads * min(load * RHYTHMS[rhythm](t), 1.0)

    def power_w(t):
        # Less than one thread is one thread for a part of the time.
        use = threads_at(t)
        risen = min(use, 1.0) * (max(use, 1.0) / threads) ** exponent
        return idle_w * (1 + (1 / share - 1) * risen)

    baseline = Baseline((measure(host(power_w, threads_at), threads=threads).point(),))
    found_w, off_w = baseline.power("cpu:0", "test.cpu:0", 26.0)
    return abs(found_w - idle_w) <= 1.96 * off_w


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_any_load_during_an_idle_measurement_is_in_its_interval(rhythm):
    """Idle shares of 5 to 60 %, 2 to 128 threads, use of 0 to 90 %; it may count as idle or not."""
    assert np.mean([is_covered(seed, rhythm) for seed in range(60)]) >= 0.95


@pytest.mark.parametrize("load", [0.02, 0.03, 0.045])
def test_a_load_that_counts_as_idle_is_in_the_interval(load):
    """On two threads, whose use raises power the most before it counts; shares of 2 to 60 %."""
    covered = [is_covered(seed, "constant", load, 2, (0.02, 0.6)) for seed in range(100)]
    assert np.mean(covered) >= 0.95


@pytest.mark.parametrize("load", [0.1, 0.5, 0.95])
def test_a_laptop_that_idles_on_next_to_nothing_is_in_the_interval_of_a_busy_one(load):
    covered = [is_covered(seed, "constant", load, 8, (0.005, 0.03), 40.0) for seed in range(20)]
    assert all(covered)


def test_net_energy_over_a_busy_idle_measurement_covers_the_truth():
    """Over hosts of all kinds: idle share, shape of the power curve, load and its rhythm."""
    covered = []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        idle_w, idle_share = draw.uniform(1.0, 80.0), draw.uniform(0.05, 0.6)
        exponent, threads = draw.uniform(0.5, 1.0), THREADS * draw.uniform(0.02, 1.0)
        duty, period_s = draw.choice([1.0, draw.uniform(0.6, 1.0)]), draw.uniform(0.5, 4.0)

        def threads_at(t, threads=threads, duty=duty, period_s=period_s):
            return threads * (t % period_s < duty * period_s)

        def power_w(t, idle_w=idle_w, share=idle_share, exponent=exponent, threads_at=threads_at):
            return idle_w * (1 + (1 / share - 1) * (threads_at(t) / THREADS) ** exponent)

        trace = host(power_w, threads_at)
        baseline = Baseline((measure(trace).point(),))
        (energy,) = EnergyEstimator(trace, baseline).energies([Window(16 * S, 36 * S)])
        low_j, high_j = energy.net_interval_j
        covered.append(low_j <= energy.gross_j - idle_w * 20 <= high_j)
        assert low_j <= energy.gross_j
        assert not math.isnan(low_j)
    assert np.mean(covered) >= 0.93
