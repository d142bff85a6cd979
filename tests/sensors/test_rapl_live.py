"""RAPL as a whole: a real meter reads counters that count, on made-up machines."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from live_files import enable
from live_sysfs import LiveRapl

import joulelab
from joulelab.energy.signal.timestamp_alignment import GAP_FACTOR
from joulelab.sensors.rapl import READ_INTERVAL_S
from joulelab.sensors.sensor import Provenance

PACKAGE_W, DRAM_W = 80.0, 12.0
RANGE_J = 262_143.328850


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    enable(monkeypatch, tmp_path / "site")
    return LiveRapl(tmp_path / "sys")


def check(energy, component, power_w):
    part = energy.components[component]
    assert part.provenance is Provenance.MEASURED
    assert part.source.startswith("rapl.")
    assert part.mean_power_w == pytest.approx(power_w, rel=0.005)
    assert part.interval_j[0] < power_w * part.duration_s
    assert part.interval_j[1] > power_w * part.duration_s


def test_each_package_and_memory_is_counted_once_also_when_it_wraps(rapl):
    first = rapl.zone("intel-rapl:0", "package-0", PACKAGE_W)
    rapl.zone("intel-rapl:0:0", "core", 60.0)
    rapl.zone("intel-rapl:0:1", "uncore", 5.0)
    rapl.zone("intel-rapl:0:2", "dram", DRAM_W)
    rapl.zone("intel-rapl-mmio:0", "package-0", PACKAGE_W, start_j=77.0)
    rapl.zone("intel-rapl:1", "package-1", PACKAGE_W + 1, start_j=RANGE_J - 60.0)
    rapl.zone("intel-rapl:1:0", "dram", DRAM_W + 1)
    rapl.zone("intel-rapl:2", "package-2-die-0", PACKAGE_W + 2, start_j=RANGE_J - 140.0)
    mirror = first.parents[1] / "intel-rapl:3"
    mirror.mkdir()
    (mirror / "name").write_text("package-2-die-1\n")
    (mirror / "max_energy_range_uj").write_text(f"{round(RANGE_J * 1e6)}\n")
    (mirror / "energy_uj").symlink_to(first.parents[1] / "intel-rapl:2" / "energy_uj")
    rapl.zone("intel-rapl:4", "package-3", 800.0, start_j=410.0, wrap_j=650.0)
    rapl.zone("intel-rapl:5", "psys", 1500.0)
    with joulelab.Meter(sensors=["cpu", "dram"]) as meter:
        meter.trace  # noqa: B018  (reads the counters)
        with meter.span("work") as span:
            time.sleep(2.0)
        meter.trace  # noqa: B018  (reads the counters)
        energy, trace = span.energy, meter.trace
    powers_w = {f"cpu:{number}": PACKAGE_W + number for number in range(3)}
    powers_w |= {"cpu:3": 800.0, "dram:0": DRAM_W, "dram:1": DRAM_W + 1}
    assert set(energy.components) == set(powers_w)
    for component, power_w in powers_w.items():
        check(energy, component, power_w)
    # The span's edges may lie some µs beyond the readings; a wrap taken for a gap would be 0.1 s.
    apart_s = np.diff(trace.series[0].t_ns) * 1e-9
    assert energy.gap_s < 0.001 + apart_s[apart_s > GAP_FACTOR * READ_INTERVAL_S].sum()
    assert not any("was reset" in note for note in energy.notes)


def test_counters_that_vanish_or_are_reset_are_gaps_with_their_reason(rapl):
    vanishing, reset, lost = (
        rapl.zone(f"intel-rapl:{number}", f"package-{number}", PACKAGE_W) for number in range(3)
    )
    with joulelab.Meter(sensors=["cpu"]) as meter:
        with meter.span("work") as span:
            time.sleep(0.5)
            aside = vanishing.rename(vanishing.with_suffix(".aside"))
            time.sleep(0.2)
            rapl.reset(reset)
            time.sleep(0.8)
            aside.rename(vanishing)
            lost.unlink()
            time.sleep(0.5)
        with meter.span("work") as later:
            time.sleep(0.5)
        energy, without = span.energy, later.energy
    check(energy, "cpu:0", PACKAGE_W)
    assert any(note.startswith("cpu:0: ") and "no such file" in note for note in energy.notes)
    part = energy.components["cpu:1"]
    assert part.mean_power_w == pytest.approx(PACKAGE_W, rel=0.1)
    assert part.gap_s > 0
    assert part.interval_j[0] < PACKAGE_W * part.duration_s
    assert part.interval_j[1] > PACKAGE_W * part.duration_s
    assert set(without.components) == {"cpu:0", "cpu:1"}
    assert "covers only" in without.absent["cpu:2"]
    assert any(note.startswith("cpu:2: ") and "no such file" in note for note in without.notes)


def test_counters_that_only_root_may_read_are_absent_with_a_hint_and_power_is_estimated(rapl):
    # Root without the capability that lets it read everything: to the kernel, any owner.
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    package = rapl.zone("intel-rapl:0", "package-0", PACKAGE_W)
    rapl.zone("intel-rapl:0:2", "dram", DRAM_W)
    for path in package.parents[1].glob("*/energy_uj"):
        path.chmod(0)
    command = [sys.executable, "-m", "joulelab", "doctor", "--json"]
    done = subprocess.run(
        [*(prefix if os.getuid() == 0 else ()), *command],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    rapl_absent = [one for one in answer["absent"] if one["source"].startswith("rapl")]
    assert {one["component"] for one in rapl_absent} == {"cpu", "dram"}
    for one in rapl_absent:
        assert "only root may read" in one["reason"]
        assert "chmod a+r" in one["hint"]
    [cpu] = [one for one in answer["sensors"] if one["component"] == "cpu:0"]
    assert (cpu["source"], cpu["provenance"]) == ("estimate.cpu", "estimated")


def test_the_platform_is_next_to_its_package(rapl):
    rapl.zone("intel-rapl:0", "package-0", PACKAGE_W)
    rapl.zone("intel-rapl:1", "psys", 1.6 * PACKAGE_W)
    with joulelab.Meter(sensors=["cpu", "soc"]) as meter:
        meter.trace  # noqa: B018  (reads the counters)
        with meter.span("work") as span:
            time.sleep(1.0)
        meter.trace  # noqa: B018  (reads the counters)
        energy = span.energy
    assert list(energy.components) == ["cpu:0"]
    check(energy, "cpu:0", PACKAGE_W)
    [platform] = energy.enclosures
    assert platform.name == "soc"
    low_j, high_j = platform.difference_interval_j
    assert low_j < 0.6 * PACKAGE_W * energy.duration_s < high_j
    assert not any("contains" in note for note in energy.notes)
