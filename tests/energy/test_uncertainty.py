"""Which errors energies share, and what remains of them in ratios."""

import math
import random
from dataclasses import replace

import pytest

from joulelab.energy.energy import ComponentEnergy, Energy, total
from joulelab.energy.uncertainty import METRICS, component_gross, gross_energy, metric_value
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import UncertainValue, ratio

GAIN, OFFSET_W, EDGE_J = 0.05, 2.0, 4.0
TRUE = (({"gpu:0": 1000.0, "cpu:0": 400.0}, 10.0), ({"gpu:0": 800.0, "cpu:0": 500.0}, 8.0))


def component(gross_j, source="nvml.samples", **changed):
    values = {
        "component": "gpu:0",
        "source": source,
        "provenance": Provenance.MEASURED,
        "duration_s": 10.0,
        "gross_j": gross_j,
        "gain_uncertainty": 0.065,
    }
    return ComponentEnergy(**values | changed)


@pytest.mark.parametrize("same_boards", [True, False])
def test_coverage_of_the_ratio_of_two_runs(same_boards):
    rng = random.Random(1)
    covered, widths = 0, []
    for _ in range(2000):
        errors, runs = {}, []
        for number, (true_j, duration_s) in enumerate(TRUE):
            parts, boards = {}, {}
            for name, component_j in true_j.items():
                boards[name] = "the same" if same_boards else number
                board = name, boards[name]
                gain, offset_w = errors.setdefault(
                    board, (rng.gauss(1, GAIN), rng.gauss(0, OFFSET_W))
                )
                gross_j = component_j * gain + offset_w * duration_s + rng.gauss(0, EDGE_J)
                parts[name] = component(
                    gross_j,
                    component=name,
                    duration_s=duration_s,
                    gain_uncertainty=GAIN,
                    offset_uncertainty_w=OFFSET_W,
                    edge_uncertainty_j=EDGE_J,
                )
            runs.append(gross_energy(Energy(duration_s=duration_s, components=parts), boards))
        found = ratio(*runs)
        covered += found.low <= 1400 / 1300 <= found.high
        widths.append(found.high / found.low)
    assert 0.93 < covered / 2000 < 0.98
    assert (sum(widths) / 2000 < 1.06) == same_boards


@pytest.mark.parametrize(
    ("source", "relative"),
    [
        ("nvml.samples", 0.0),
        # The sources of a board read one sensor and agree within 1 %.
        ("nvml.samples+nvml.energy_counter", 0.01),
        ("nvml.energy_counter", 0.01),
        # The error of a calibration is not that of the uncalibrated board.
        ("nvml.samples.calibrated-2026-01-31", 0.065 * 2**0.5),
        ("estimate.cpu", 0.065 * 2**0.5),
    ],
)
def test_sources_of_one_board_share_its_gain(source, relative):
    one, other = (
        component_gross(component(1100.0), "b"),
        component_gross(component(1000.0, source), "b"),
    )
    assert one.uncertainty == pytest.approx(0.065 * 1100.0)
    assert (one.logarithm() - other.logarithm()).uncertainty == pytest.approx(relative, abs=1e-12)
    elsewhere = component_gross(component(1000.0, source), "another board")
    difference = one.logarithm() - elsewhere.logarithm()
    assert difference.uncertainty == pytest.approx(0.065 * 2**0.5)


def test_calibrated_sources_of_one_board_share_the_error_of_the_calibration():
    suffix = ".calibrated-2026-01-31"
    samples, counter = (
        component_gross(component(1000.0, name + suffix, gain_uncertainty=0.012), "b").logarithm()
        for name in ("nvml.samples", "nvml.energy_counter")
    )
    assert (samples - counter).uncertainty == pytest.approx(0.01)


def test_errors_of_one_machine_add_up_and_those_of_several_are_independent():
    one = component(1000.0, gain_uncertainty=0.1)
    spans = [Energy(duration_s=10.0, components={"gpu:0": one})] * 4
    here = UncertainValue.total([component_gross(one, "here")] * 4)
    assert here.uncertainty == pytest.approx(400.0)
    assert total(spans).interval_j == pytest.approx(here.interval)
    elsewhere = UncertainValue.total(component_gross(one, host) for host in "abcd")
    assert elsewhere.uncertainty == pytest.approx(200.0)


def test_net_energy_has_the_error_of_its_baseline_and_no_offset():
    part = component(600.0, idle_j=200.0, idle_uncertainty_j=3.0, offset_uncertainty_w=9.0)
    energy = Energy(duration_s=10.0, components={"gpu:0": part})
    net = metric_value(METRICS["net_j"], energy, {}, frozenset({"gpu:0"}), baseline="monday")
    assert net.uncertainty == pytest.approx(part.net_uncertainty_j)
    assert net.shared["idle", "monday", "gpu:0"] == 3.0


def test_values_per_sample_per_span_and_per_second():
    energy = Energy(duration_s=10.0, components={"gpu:0": component(600.0)})

    def value(name, **options):
        return metric_value(METRICS[name], energy, {}, frozenset({"gpu:0"}), **options).value

    assert value("gross_j_per_sample", samples=300.0) == pytest.approx(2.0)
    assert math.isnan(value("gross_j_per_sample"))
    assert value("gross_j", pieces=3) == pytest.approx(200.0)
    assert value("mean_power_w", pieces=3) == pytest.approx(60.0)
    assert value("duration_s", pieces=4) == pytest.approx(2.5)
    assert math.isnan(value("net_j"))
    other = replace(energy, components={})
    assert math.isnan(metric_value(METRICS["gross_j"], other, {}, frozenset({"gpu:0"})).value)
