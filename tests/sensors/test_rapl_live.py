"""RAPL whole: a real meter reads counters that count meanwhile, on made-up machines."""

import json
import os
import subprocess
import sys
import time

import pytest
from live_sysfs import LiveRapl

import joulelab
from joulelab.sensors.sensor import Provenance

PACKAGE_W, DRAM_W = 80.0, 12.0


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    return LiveRapl(tmp_path / "sys")


def client(rapl):
    package = rapl.zone("intel-rapl:0", "package-0", PACKAGE_W)
    rapl.zone("intel-rapl:0:0", "core", 60.0)
    rapl.zone("intel-rapl:0:1", "uncore", 5.0)
    return package


def read_new_values(rapl, meter):
    """Two, one after the other, so that one came after whatever is marked before or after."""
    for _ in range(2):
        rapl.count()
        meter.trace  # noqa: B018  (reads the counters)


def measured(rapl, seconds=1.0, sensors=("cpu", "dram")):
    """The energy of a span, and the power that its counters' standing still may add or hide."""
    with rapl, joulelab.Meter(sensors=list(sensors)) as meter:
        read_new_values(rapl, meter)
        with meter.span("work") as span:
            time.sleep(seconds)
        read_new_values(rapl, meter)
        energy = span.energy
    return energy, 2 * rapl.slowest_s / energy.duration_s


def check(energy, component, power_w, late):
    part = energy.components[component]
    assert part.provenance is Provenance.MEASURED
    assert part.source.startswith("rapl.")
    assert part.mean_power_w == pytest.approx(power_w, rel=0.005 + late)
    assert part.interval_j[0] < power_w * part.duration_s * (1 + late)
    assert part.interval_j[1] > power_w * part.duration_s * (1 - late)


def test_a_client_counts_its_package_and_not_what_is_inside_it(rapl):
    client(rapl)
    energy, late = measured(rapl)
    check(energy, "cpu:0", PACKAGE_W, late)
    assert "cpu:1" not in energy.components
    assert energy.components["dram:0"].provenance is Provenance.ESTIMATED


def test_psys_overlaps_everything_and_is_no_second_processor(rapl):
    client(rapl)
    rapl.zone("intel-rapl:1", "psys", 150.0)
    energy, late = measured(rapl, sensors=["cpu"])
    assert set(energy.components) == {"cpu:0"}
    check(energy, "cpu:0", PACKAGE_W, late)


def test_mmio_repeats_the_package_and_is_not_counted_again(rapl):
    client(rapl)
    rapl.zone("intel-rapl-mmio:0", "package-0", PACKAGE_W, start_j=77.0)
    energy, late = measured(rapl, sensors=["cpu"])
    assert set(energy.components) == {"cpu:0"}
    check(energy, "cpu:0", PACKAGE_W, late)


def test_a_server_counts_both_packages_and_their_memory(rapl):
    for number in (0, 1):
        rapl.zone(f"intel-rapl:{number}", f"package-{number}", PACKAGE_W + number)
        rapl.zone(f"intel-rapl:{number}:0", "dram", DRAM_W + number)
    energy, late = measured(rapl)
    assert set(energy.components) == {"cpu:0", "cpu:1", "dram:0", "dram:1"}
    for number in (0, 1):
        check(energy, f"cpu:{number}", PACKAGE_W + number, late)
        check(energy, f"dram:{number}", DRAM_W + number, late)


def test_amd_has_the_same_files(rapl):
    rapl.zone("intel-rapl:0", "package-0", PACKAGE_W)
    rapl.zone("intel-rapl:0:0", "core", 50.0)
    energy, late = measured(rapl, sensors=["cpu"])
    assert set(energy.components) == {"cpu:0"}
    check(energy, "cpu:0", PACKAGE_W, late)


def test_dies_that_mirror_one_counter_are_counted_once(rapl):
    first = rapl.zone("intel-rapl:0", "package-0-die-0", PACKAGE_W)
    twin = first.parents[1] / "intel-rapl:1"
    twin.mkdir()
    (twin / "name").write_text("package-0-die-1\n")
    (twin / "max_energy_range_uj").write_text("262143328850\n")
    (twin / "energy_uj").symlink_to(first)
    energy, late = measured(rapl, sensors=["cpu"])
    assert set(energy.components) == {"cpu:0"}
    check(energy, "cpu:0", PACKAGE_W, late)


@pytest.mark.parametrize(
    ("power_w", "wrap_j", "before_j"),
    [(80.0, 262_143.328850, 20.0), (80.0, 262_143.328850, 100.0), (800.0, 650.0, 200.0)],
    ids=["soon", "late", "small range, several times"],
)
def test_a_counter_that_wraps_within_the_span(rapl, power_w, wrap_j, before_j):
    rapl.zone("intel-rapl:0", "package-0", power_w, start_j=wrap_j - before_j - 40.0, wrap_j=wrap_j)
    energy, late = measured(rapl, 2.0, sensors=["cpu"])
    check(energy, "cpu:0", power_w, late)
    # The span's edges may lie some µs beyond the readings; a wrap taken for a gap would be 0.1 s.
    assert energy.gap_s < 0.001


def test_a_counter_that_vanishes_has_counted_meanwhile_and_the_account_says_so(rapl):
    package = client(rapl)
    with rapl, joulelab.Meter(sensors=["cpu"]) as meter:
        with meter.span("work") as span:
            time.sleep(0.5)
            counter = rapl.vanish(package)
            time.sleep(1.0)
            rapl.come_back(package, counter)
            time.sleep(0.5)
        energy = span.energy
    late = 2 * rapl.slowest_s / energy.duration_s
    check(energy, "cpu:0", PACKAGE_W, late)
    assert any("no such file" in note for note in energy.notes)


def test_a_counter_that_is_gone_for_good_is_absent_with_its_reason(rapl):
    package = client(rapl)
    with rapl, joulelab.Meter(sensors=["cpu"]) as meter:
        time.sleep(0.3)
        rapl.vanish(package)
        time.sleep(0.2)
        with meter.span("work") as span:
            time.sleep(0.5)
        energy = span.energy
    assert "covers only" in energy.absent["cpu:0"]
    assert any("no such file" in note for note in energy.notes)
    assert not energy.components


def test_a_counter_that_is_reset_has_not_wrapped(rapl):
    package = client(rapl)
    with rapl, joulelab.Meter(sensors=["cpu"]) as meter:
        with meter.span("work") as span:
            time.sleep(0.7)
            rapl.reset(package)
            time.sleep(0.7)
        energy = span.energy
    part = energy.components["cpu:0"]
    assert part.mean_power_w == pytest.approx(PACKAGE_W, rel=0.1)
    assert part.gap_s > 0
    assert part.interval_j[0] < PACKAGE_W * part.duration_s < part.interval_j[1]


def test_counters_for_root_only_are_absent_with_a_mend_and_power_is_estimated(rapl):
    # Root without the capability that lets it read everything: to the kernel, any owner.
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    package = client(rapl)
    rapl.zone("intel-rapl:0:2", "dram", DRAM_W)
    with rapl:
        pass
    for path in package.parents[1].glob("*/energy_uj"):
        path.chmod(0)
    command = [sys.executable, "-m", "joulelab", "doctor", "--json"]
    done = subprocess.run(
        [*(prefix if os.getuid() == 0 else ()), *command],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    refused = {one["component"]: one for one in said["absent"] if one["source"].startswith("rapl")}
    assert set(refused) == {"cpu", "dram"}
    for one in refused.values():
        assert "only root may read" in one["reason"]
        assert "chmod a+r" in one["hint"]
    power = {one["source"]: one for one in said["sensors"] if one["component"] == "cpu:0"}
    assert set(power) == {"estimate.cpu"}
    assert power["estimate.cpu"]["provenance"] == "estimated"
