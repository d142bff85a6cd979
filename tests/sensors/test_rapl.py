from __future__ import annotations

import os
from pathlib import Path

import pytest

from joulelab.sensors import rapl
from joulelab.sensors.rapl import HIDDEN_HINT, discover_rapl
from joulelab.sensors.sensor import Gap, Provenance, Quantity, Reading

WRAP_UJ = 262_143_328_850


def zone(root: Path, directory: str, name: str, energy_uj: int | str, wrap_uj: int = WRAP_UJ):
    path = root / "class" / "powercap" / directory
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{wrap_uj}\n")
    return path / "energy_uj"


class Clock:
    """Time that passes by sleeping; counters on it rise at a rate."""

    def __init__(self, monkeypatch, rates_w):
        self.now_s, self.rates_w = 100.0, rates_w
        monkeypatch.setattr(rapl, "time", self)

    def monotonic(self):
        return self.now_s

    def monotonic_ns(self):
        return round(self.now_s * 1e9)

    def sleep(self, seconds):
        self.now_s += seconds
        for path, power_w in self.rates_w.items():
            path.write_text(str(int(path.read_text()) + round(power_w(self.now_s) * seconds * 1e6)))


def client(root):
    zone(root, "intel-rapl:0", "package-0", 10_000_000)
    zone(root, "intel-rapl:0:0", "core", 6_000_000)
    zone(root, "intel-rapl:0:1", "uncore", 1_000_000)
    zone(root, "intel-rapl:1", "psys", 20_000_000)


def server(root):
    zone(root, "intel-rapl:0", "package-0", 10_000_000)
    zone(root, "intel-rapl:0:0", "dram", 3_000_000)
    zone(root, "intel-rapl:1", "package-1", 11_000_000)
    zone(root, "intel-rapl:1:0", "dram", 4_000_000)


def components(sensors):
    return {c.component: c.source for s in sensors for c in s.channels}


def values(sensor):
    return {sensor.channels[r.channel].component: r.value for r in sensor.read()}


def test_client_counts_the_package_within_its_platform(tmp_path):
    client(tmp_path)
    [sensor], absent = discover_rapl(root=tmp_path, vendor="GenuineIntel")
    assert values(sensor) == {"cpu:0": 10.0, "soc": 20.0}
    platform = sensor.channels[1]
    assert platform.source == "rapl.psys"
    assert platform.contains == ("cpu", "gpu", "dram")
    assert "wired" in platform.note
    assert [a.component for a in absent] == ["dram"]


def test_the_platforms_of_two_sockets_are_two(tmp_path):
    client(tmp_path)
    zone(tmp_path, "intel-rapl:3", "psys-1", 30_000_000)
    [sensor], _ = discover_rapl(root=tmp_path, vendor="GenuineIntel")
    assert values(sensor) == {"cpu:0": 10.0, "soc:0": 20.0, "soc:1": 30.0}


def test_server_counts_packages_and_their_dram(tmp_path):
    server(tmp_path)
    [sensor], absent = discover_rapl(root=tmp_path)
    assert values(sensor) == {"cpu:0": 10.0, "cpu:1": 11.0, "dram:0": 3.0, "dram:1": 4.0}
    assert absent == []
    for channel in sensor.channels:
        assert channel.quantity is Quantity.ENERGY
        assert channel.provenance is Provenance.MEASURED
        assert channel.wrap == pytest.approx(WRAP_UJ / 1e6)
        assert channel.gain_uncertainty > 0


def test_only_requested_components_are_counted(tmp_path):
    server(tmp_path)
    [sensor], _ = discover_rapl(["dram"], root=tmp_path)
    assert set(values(sensor)) == {"dram:0", "dram:1"}


def test_psys_alone_is_not_a_cpu(tmp_path):
    zone(tmp_path, "intel-rapl:0", "psys", 20_000_000)
    sensors, absent = discover_rapl(["cpu"], root=tmp_path)
    assert sensors == []
    assert "psys" in absent[0].reason


def test_mmio_repeats_and_is_ignored(tmp_path):
    client(tmp_path)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 10_000_123)
    [sensor], _ = discover_rapl(["cpu", "dram"], root=tmp_path)
    assert values(sensor) == {"cpu:0": 10.0}


def test_mmio_alone_is_used(tmp_path):
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 10_000_000)
    [sensor], _ = discover_rapl(["cpu", "dram"], root=tmp_path)
    assert values(sensor) == {"cpu:0": 10.0}


def test_amd_uses_the_same_names_with_a_wider_gain(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    [amd], _ = discover_rapl(["cpu"], root=tmp_path, vendor="AuthenticAMD")
    [intel], _ = discover_rapl(["cpu"], root=tmp_path, vendor="GenuineIntel")
    assert components([amd]) == {"cpu:0": "rapl.package-0"}
    assert amd.channels[0].gain_uncertainty > intel.channels[0].gain_uncertainty


@pytest.mark.parametrize(
    "names", [("package-0-die-0", "package-0-die-1"), ("package-0", "package-1")]
)
def test_mirrored_counters_are_counted_once(tmp_path, names):
    for number, name in enumerate(names):
        zone(tmp_path, f"intel-rapl:{number}", name, 7_000_000)
    [sensor], absent = discover_rapl(["cpu"], root=tmp_path)
    assert values(sensor) == {"cpu:0": 7.0}
    assert names[0] in absent[0].reason


def test_dies_with_their_own_counters_are_both_counted(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0-die-0", 7_000_000)
    zone(tmp_path, "intel-rapl:1", "package-0-die-1", 8_000_000)
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    assert values(sensor) == {"cpu:0": 7.0, "cpu:1": 8.0}


def test_zones_are_ordered_by_number(tmp_path):
    for number in range(11):
        zone(tmp_path, f"intel-rapl:{number}", f"package-{number}", (number + 1) * 1_000_000)
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    assert values(sensor)["cpu:10"] == 11.0


def test_counters_that_may_not_be_read_are_absent_with_a_hint(tmp_path, monkeypatch):
    server(tmp_path)
    real = os.open

    def refusing(path, *arguments, **keywords):
        if str(path).endswith("energy_uj") and "max" not in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refusing)
    sensors, absent = discover_rapl(root=tmp_path)
    assert sensors == []
    assert len(absent) == 4
    assert all("chmod a+r" in a.hint and "only root may read" in a.reason for a in absent)


def test_a_directory_instead_of_the_counter_is_absent(tmp_path):
    path = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    path.unlink()
    path.mkdir()
    sensors, [absence] = discover_rapl(["cpu"], root=tmp_path)
    assert sensors == []
    assert "directory" in absence.reason


@pytest.mark.parametrize("text", ["", "abc", "-5", "1.5", "²"])
def test_a_malformed_value_is_a_gap(tmp_path, text):
    path = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    path.write_text(text)
    [gap] = sensor.read()
    assert isinstance(gap, Gap)
    assert ("negative number" if text == "-5" else "not a number") in gap.reason


def test_a_file_that_vanishes_is_a_gap_and_comes_back(tmp_path):
    path = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    path.unlink()
    [gap] = sensor.read()
    assert isinstance(gap, Gap)
    assert "no such file" in gap.reason
    path.write_text("2000000")
    [reading] = sensor.read()
    assert isinstance(reading, Reading)
    assert reading.value == 2.0


def test_no_powercap_at_all(tmp_path):
    sensors, absent = discover_rapl(root=tmp_path)
    assert sensors == []
    assert {a.component for a in absent} == {"cpu", "dram"}
    assert all(a.reason and a.hint for a in absent)


def test_a_small_range_is_read_often_enough(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000, wrap_uj=65_000_000)
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    assert 0 < sensor.interval_s <= 65 / 1000 / 4


def test_the_environment_sets_the_root(tmp_path, monkeypatch):
    server(tmp_path)
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path))
    [sensor], _ = discover_rapl()
    assert len(sensor.channels) == 4


def test_a_zone_without_a_name_is_absent_with_its_path(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 7_000_000)
    (package.parent / "name").unlink()
    sensors, absent = discover_rapl(["cpu"], root=tmp_path)
    assert sensors == []
    [absence] = absent
    assert absence.reason.startswith(f"it is unknown what {package.parent} counts: cannot read")


def test_zones_of_other_names_are_listed_in_the_reason(tmp_path):
    zone(tmp_path, "intel-rapl:0", "Package 0 \x1b[31m", 7_000_000)
    [absence] = discover_rapl(["cpu"], root=tmp_path)[1]
    assert "counts no package" in absence.reason
    assert "'Package 0 \\x1b[31m'" in absence.reason


@pytest.mark.parametrize(("wrap_uj", "interval_s"), [(3_000_000, 1e-3), (40_000_000, 0.01)])
def test_a_small_range_is_read_often_within_limits(tmp_path, wrap_uj, interval_s):
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000, wrap_uj=wrap_uj)
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    assert sensor.interval_s == pytest.approx(interval_s)


def test_a_range_that_wraps_between_any_two_readings_is_absent(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000, wrap_uj=65_535)
    sensors, [absence] = discover_rapl(["cpu"], root=tmp_path)
    assert sensors == []
    assert "counts only to 0.065535 J" in absence.reason


@pytest.mark.parametrize("lag_uj", [0, 50_000])
def test_a_mirror_may_be_updated_a_moment_later(tmp_path, monkeypatch, lag_uj):
    """Both counters move between readings; in two of nine readings the mirror is late."""
    first = zone(tmp_path, "intel-rapl:0", "package-0-die-0", 7_000_000)
    twin = zone(tmp_path, "intel-rapl:1", "package-0-die-1", 7_000_000)
    updates = iter(range(1, 100))

    def move(_):
        update = next(updates)
        now_uj = 7_000_000 + update * 100_000
        first.write_text(str(now_uj))
        twin.write_text(str(now_uj - (lag_uj if update % 4 == 0 else 0)))

    monkeypatch.setattr("joulelab.sensors.rapl.time.sleep", move)
    [sensor], absent = discover_rapl(["cpu"], root=tmp_path)
    assert [channel.component for channel in sensor.channels] == ["cpu:0"]
    assert "same counter" in absent[0].reason


def test_counters_that_are_equal_once_are_two(tmp_path, monkeypatch):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 7_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 7_300_000)
    updates = iter(range(1, 100))

    def move(_):
        first.write_text(str(7_000_000 + next(updates) * 100_000))

    monkeypatch.setattr("joulelab.sensors.rapl.time.sleep", move)
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    assert [channel.component for channel in sensor.channels] == ["cpu:0", "cpu:1"]


@pytest.mark.parametrize(
    ("power_w", "rated_w", "refused"),
    [
        (4200, None, True),
        (1500, None, False),
        (1500, 65, True),
        (250, 65, False),
        (55, 15, False),
        (100, 6, True),
        (0, 6, False),
    ],
)
@pytest.mark.parametrize("source", ["kernel", "name"])
def test_a_package_above_what_it_can_draw_is_refused(
    tmp_path, monkeypatch, power_w, rated_w, refused, source
):
    path = zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000)
    if rated_w and source == "kernel":
        (path.parent / "constraint_0_max_power_uw").write_text(str(rated_w * 10**6))
        (path.parent / "constraint_1_max_power_uw").write_text("0")
    Clock(monkeypatch, {path: lambda _: power_w})
    tdp_w = rated_w if source == "name" else None
    sensors, absent = discover_rapl(["cpu"], root=tmp_path, tdp_w=tdp_w)
    assert bool(sensors) is not refused
    if refused:
        [absence] = absent
        assert (absence.component, absence.source) == ("cpu:0", "rapl.package-0")
        assert f"rapl.package-0 reports {power_w:,} W, more than a processor" in absence.reason
        assert "its unit is probably wrong" in absence.reason
    else:
        assert sensors[0].channels[0].max_power_w == (5 * rated_w if rated_w else 2000)


@pytest.mark.parametrize("rated", [125, 125_000])
def test_a_limit_in_watts_or_milliwatts_does_not_refuse_the_counter(tmp_path, monkeypatch, rated):
    path = zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000)
    (path.parent / "constraint_0_max_power_uw").write_text(str(rated))
    Clock(monkeypatch, {path: lambda _: 90})
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    assert sensor.channels[0].max_power_w == 2000


def test_a_burst_at_the_start_refuses_nothing(tmp_path, monkeypatch):
    path = zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000)
    Clock(monkeypatch, {path: lambda t_s: 300 if t_s < 100.06 else 5})
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path, tdp_w=10)
    assert sensor.channels[0].max_power_w == 50


def test_one_of_two_packages_is_refused_and_the_other_keeps_its_name(tmp_path, monkeypatch):
    wrong = zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000)
    right = zone(tmp_path, "intel-rapl:1", "package-1", 90_000_000)
    Clock(monkeypatch, {wrong: lambda _: 9000, right: lambda _: 90})
    [sensor], [absence] = discover_rapl(["cpu"], root=tmp_path)
    assert components([sensor]) == {"cpu:1": "rapl.package-1"}
    assert absence.component == "cpu:0"


def test_links_that_lead_nowhere_are_explained_once_with_the_fix(tmp_path):
    powercap = tmp_path / "class" / "powercap"
    powercap.mkdir(parents=True)
    for name in ("intel-rapl", "intel-rapl:0", "intel-rapl:0:0"):
        (powercap / name).symlink_to(f"../../devices/virtual/powercap/{name}")
    sensors, absent = discover_rapl(root=tmp_path)
    assert sensors == []
    assert [one.component for one in absent] == ["cpu", "dram"]
    assert all("lead nowhere" in one.reason and one.hint == HIDDEN_HINT for one in absent)
    assert "/sys/devices/virtual/powercap" in HIDDEN_HINT
