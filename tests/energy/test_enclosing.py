"""Meters around the total take the path of every energy: gross, idle, net, sums, hosts, records."""

import json
from dataclasses import replace

import numpy as np
import pytest
from energy_parts import component_energy, idle_point, make_channel

from joulelab.energy.attribution import NOT_USED
from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import Energy, joined, total
from joulelab.energy.estimator import EnergyEstimator, energy_of_union
from joulelab.energy.idle import IdleMeasurement
from joulelab.energy.window_union import WindowUnion
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_format import SCHEMA
from joulelab.recording.trace_schema import parse_header
from joulelab.recording.trace_spans import Window
from joulelab.runs.hosts import sum_hosts
from joulelab.runs.record import sum_of_known
from joulelab.sensors.sensor import Provenance

S = 10**9
MEASURED, ESTIMATED = Provenance.MEASURED, Provenance.ESTIMATED
PARTS = ("cpu", "gpu", "dram")


def machine(powers_w, *, seconds=20, lost=None, header=None):
    """A recording of constant powers, by component; an estimate where the name ends in ``?``.

    ``lost`` is a component without readings from 10 s on.
    """
    channels, series = [], []
    t_ns = np.arange(0, seconds * S + 1, S // 10)
    for name, power_w in powers_w.items():
        component = name.removesuffix("?")
        is_estimate = name.endswith("?")
        channels.append(
            make_channel(
                component,
                source=f"{component}.sensor",
                provenance=ESTIMATED if is_estimate else MEASURED,
                window_s=0.1,
                gain_uncertainty=0.2 if is_estimate else 0.02,
                contains=PARTS if component == "node" else (),
            )
        )
        kept = t_ns[t_ns <= 10 * S] if component == lost else t_ns
        series.append(Readings(kept, np.full(kept.size, power_w)))
    return Trace(tuple(channels), tuple(series), header=header or {})


def energies(trace, *spans_s, baseline=None):
    windows = [Window(round(start_s * S), round(stop_s * S)) for start_s, stop_s in spans_s]
    return EnergyEstimator(trace, baseline).energies(windows)


WORKSTATION = {"gpu:0": 300.0, "cpu:0?": 60.0, "node": 450.0}


def test_a_node_is_next_to_the_sum_of_its_parts_with_the_difference_named():
    [energy] = energies(machine(WORKSTATION), (2, 12))
    assert energy.gross_j == pytest.approx(3600)
    assert list(energy.components) == ["cpu:0", "gpu:0"]
    assert energy.enclosing["node"].gross_j == pytest.approx(4500)
    assert energy.enclosing["node"].contains == ("cpu:0", "gpu:0")
    [node] = energy.enclosures
    assert node.difference_j == pytest.approx(900)
    low_j, high_j = node.difference_interval_j
    half_j = 1.96 * np.hypot(np.hypot(0.02 * 4500, 0.02 * 3000), 0.2 * 600)
    assert high_j - low_j == pytest.approx(2 * half_j, rel=0.01)
    assert "node 4,500 J (node.sensor), 900 J (95 % CI" in str(energy)
    assert "more than its parts: power supply, fans, board, disks" in str(energy)
    assert energy.unmetered == "network"
    assert energy.notes == ()


def test_two_power_supplies_around_estimates_are_the_total():
    [energy] = energies(machine({"psu:0": 100.0, "psu:1": 110.0, "cpu:0?": 60.0}), (2, 12))
    assert energy.gross_j == pytest.approx(2100)
    assert list(energy.enclosed) == ["cpu:0"]
    assert energy.enclosed["cpu:0"].gross_j == pytest.approx(600)
    assert energy.provenance is MEASURED
    [note] = energy.notes
    assert note == (
        "psu:0 and psu:1 are in the total: nothing that they contain is measured (cpu:0: "
        "estimated, not added)"
    )
    assert "in it, estimated: cpu:0 600 J" in str(energy)


def test_a_plug_of_one_device_does_not_meter_the_machine():
    trace = machine({"plug:egpu": 250.0, "cpu:0": 60.0})
    plug = replace(trace.channels[0], contains=("gpu:1",))
    [energy] = energies(replace(trace, channels=(plug, trace.channels[1])), (2, 12))
    assert energy.gross_j == pytest.approx(3100)
    assert energy.unmetered == "power supply, fans, board, disks, network"


def test_two_power_supplies_enclose_together():
    [energy] = energies(machine({"psu:0": 200.0, "psu:1": 210.0, "gpu:0": 300.0}), (2, 12))
    [supplies] = energy.enclosures
    assert supplies.name == "psu:0 + psu:1"
    assert supplies.gross_j == pytest.approx(4100)
    assert supplies.difference_j == pytest.approx(1100)


def test_a_part_that_is_lost_does_not_change_what_the_total_means():
    before, after = energies(machine(WORKSTATION, lost="gpu:0"), (2, 8), (12, 18))
    assert list(before.components) == ["cpu:0", "gpu:0"]
    assert list(after.components) == ["cpu:0"]
    assert "gpu:0" in after.absent
    assert list(after.enclosing) == ["node"]
    [node] = after.enclosures
    assert node.unmetered == "gpu:0, power supply, fans, board, disks"


@pytest.mark.parametrize("answers", [0, 1])
def test_a_meter_that_hardly_answers_leaves_the_estimates(answers):
    trace = machine({"cpu:0?": 60.0, "node": 450.0})
    few = Readings(*(one[:answers] for one in trace.series[1]))
    silent = replace(trace, series=(trace.series[0], few))
    [energy] = energies(silent, (2, 12))
    assert list(energy.components) == ["cpu:0"]
    assert "node" in energy.absent


def test_a_meter_below_its_measured_parts_is_named_once():
    low = energies(machine({**WORKSTATION, "node": 45.0}), (2, 8), (8, 18))
    [note] = {note for energy in low for note in energy.notes}
    assert note == (
        "node: node.sensor reports less than gpu:0, which it contains: its unit, or the list "
        "of what it contains, is wrong"
    )
    assert total(low).notes == (note,)
    assert "less than its parts" in str(low[0])
    # Estimates contradict no meter, and neither does a difference within the uncertainty.
    assert (
        energies(machine({"gpu:0": 300.0, "cpu:0?": 600.0, "node": 310.0}), (2, 8))[0].notes == ()
    )
    assert energies(machine({"gpu:0": 300.0, "node": 290.0}), (2, 8))[0].notes == ()


def test_a_meter_below_another_that_it_contains_is_named():
    """Two power supplies deliver what a machine takes, or one of the meters is wrong."""
    parts = {"gpu:0": 300.0, "node": 450.0}
    [low] = energies(machine({**parts, "psu:0": 100.0, "psu:1": 220.0}), (2, 12))
    [note] = low.notes
    assert note.startswith("psu:0 + psu:1: ")
    assert "reports less than node, which it contains" in note
    [right] = energies(machine({**parts, "psu:0": 240.0, "psu:1": 250.0}), (2, 12))
    assert right.notes == ()


def test_idle_power_of_a_meter_is_subtracted_and_measured_like_any():
    trace = machine(WORKSTATION)
    point = IdleMeasurement(trace, 0, 10 * S, 10.0).point()
    assert point.power_w["node"] == pytest.approx(450)
    idle = idle_point({"gpu:0": 50.0, "node": 150.0})
    idle = replace(idle, source={"gpu:0": "gpu:0.sensor", "node": "node.sensor"})
    baseline = Baseline((idle,))
    [energy] = energies(trace, (2, 12), baseline=baseline)
    node = energy.enclosing["node"]
    assert (node.idle_j, node.net_j) == (pytest.approx(1500), pytest.approx(3000))
    [plain] = energies(trace, (2, 12))
    assert baseline.subtract(plain, 2.0, 12.0).enclosing["node"].net_j == pytest.approx(3000)
    assert IdlePoint.from_energy(plain, 5.0).power_w.keys() == {"gpu:0", "cpu:0", "node"}


def test_sums_and_records_keep_the_roles():
    one, two = energies(machine(WORKSTATION), (2, 8), (8, 18))
    for energy in (one + two, total([one, two]), sum_of_known([one, two])):
        assert energy.gross_j == pytest.approx(16 * 360)
        assert energy.enclosing["node"].gross_j == pytest.approx(16 * 450)
    copy = Energy.from_json(one.to_json())
    assert copy == one
    [difference] = one.to_json()["differences"]
    assert difference["meters"] == ["node"]
    assert difference["parts"] == ["cpu:0", "gpu:0"]
    assert difference["difference_j"] == pytest.approx(6 * 90)
    [estimates] = energies(machine({"node": 450.0, "cpu:0?": 60.0}), (2, 8))
    assert Energy.from_json(estimates.to_json()) == estimates
    # A component that is added in one and encloses in the other is in no sum.
    mixed = one + estimates
    assert "node" not in {*mixed.components, *mixed.enclosing}
    assert "node" in mixed.absent


def test_without_meters_around_it_a_record_is_as_before():
    [energy] = energies(machine({"gpu:0": 300.0}), (2, 8))
    stored = energy.to_json()
    assert not {"enclosing", "enclosed", "differences"} & stored.keys()
    assert "contains" not in stored["components"]["gpu:0"]


def test_hosts_have_meters_of_their_own():
    [energy] = energies(machine(WORKSTATION), (2, 12))
    hosts = sum_hosts({"a": energy, "b": energy}, ())
    assert hosts.gross_j == pytest.approx(7200)
    assert [one.name for one in hosts.enclosures] == ["node@a", "node@b"]
    assert [one.difference_j for one in hosts.enclosures] == [pytest.approx(900)] * 2
    assert joined([energy]).enclosing == energy.enclosing


def test_a_union_on_two_clocks_keeps_the_roles():
    estimator = EnergyEstimator(machine(WORKSTATION))
    host = np.array([(2 * S, 12 * S)])
    energy = energy_of_union(estimator, WindowUnion(host, host + S // 2))
    assert list(energy.components) == ["cpu:0", "gpu:0"]
    assert energy.gross_j == pytest.approx(3600)
    assert energy.enclosing["node"].gross_j == pytest.approx(4500)


def test_the_card_of_a_gpu_that_the_job_does_not_use_is_not_shown():
    powers_w = {"gpu:0": 300.0, "gpu:1": 300.0, "card:0": 320.0, "card:1": 320.0}
    header = {"gpus": {"gpu:0": ["GPU-a"], "gpu:1": ["GPU-b"]}}
    trace = machine(powers_w, header=header)
    contains = {"card:0": ("gpu:0",), "card:1": ("gpu:1",)}
    channels = [replace(c, contains=contains.get(c.component, ())) for c in trace.channels]
    events = [
        {"event": "joined", "pid": 7, "launch": _Launch(), "gpus": ["gpu:0"], "t_ns": 0},
    ]
    [energy] = energies(replace(trace, channels=tuple(channels), events=events), (2, 12))
    assert list(energy.components) == ["gpu:0"]
    assert list(energy.enclosing) == ["card:0"]
    assert energy.absent["card:1"] == NOT_USED


class _Launch:
    rank = local_rank = 0


def test_a_superchips_counter_of_an_earlier_trace_is_its_modules():
    old = make_channel("gpu:1", source="nvml.energy_counter").to_json() | {"scope": "module"}
    del old["contains"]
    text = json.dumps({"schema": SCHEMA, "channels": [old], "absent": []})
    [channel] = parse_header(text.encode() + b"\n")["channels"]
    assert channel.component == "module:1"
    assert channel.contains == ("gpu:1", "cpu:1", "dram:1")


def test_a_total_without_components_still_shows_the_meter():
    node = component_energy("node", 4500.0, contains=("gpu:0",))
    energy = Energy(duration_s=10.0, absent={"gpu:0": "lost"}, enclosing={"node": node})
    assert np.isnan(energy.gross_j)
    assert energy.lines()[1] == "node 4,500 J (test)"
