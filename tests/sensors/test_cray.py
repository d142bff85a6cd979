"""Cray's counters: their clock, their freshness, and what goes wrong."""

import pytest

from joulelab.sensors import cray
from joulelab.sensors.cray import discover_cray
from joulelab.sensors.discovery import MEASURABLE
from joulelab.sensors.sensor import Gap, Reading

AHEAD_US = 10**15
POWER_W = 500
NAMES = ("energy", "cpu_energy", "memory_energy", "accel0_energy", "accel1_energy")


class Counters:
    """Counters of one power that are scanned ten times a second, on a clock that tests move."""

    def __init__(self, root, monkeypatch, names=NAMES, *, skew=0.0):
        self.path = root / "cray/pm_counters"
        self.path.mkdir(parents=True)
        self.names = names
        self.now_us = 10**9
        self.ahead_us = AHEAD_US
        self.skew = skew
        self.frozen = set()
        self.written = None
        monkeypatch.setattr(cray, "time", self)
        self.scan()

    def monotonic_ns(self):
        return self.now_us * 1000

    def monotonic(self):
        return self.now_us / 1e6

    def sleep(self, seconds):
        until_us = self.now_us + round(seconds * 1e6)
        while self.now_us < until_us:
            next_us = self.now_us // 100_000 * 100_000 + 100_000
            self.now_us = min(until_us, next_us)
            self.scan()

    def scan(self):
        scanned = self.now_us // 100_000
        at_us = scanned * 100_000
        stamp_us = at_us + self.ahead_us + round(at_us * self.skew)
        if (state := (scanned, self.ahead_us, *self.frozen)) == self.written:
            return
        self.written = state
        if "freshness" not in self.frozen:
            (self.path / "freshness").write_text(f"{scanned}\n")
        for name in self.names:
            if name not in self.frozen:
                text = f"{POWER_W * at_us // 10**6} J {stamp_us} us\n"
                (self.path / name).write_text(text)


def discovered(root, kinds=MEASURABLE, found=()):
    return discover_cray(kinds, found, root=root)


def read_for(counters, sensor, seconds):
    """Read at the sensor's pace."""
    found = []
    for _ in range(round(seconds / sensor.interval_s)):
        counters.sleep(sensor.interval_s)
        found += sensor.read()
    return found


def test_another_machine_has_nothing_and_misses_nothing(tmp_path):
    assert discovered(tmp_path) == ([], [])


def contents(root, **arguments):
    [sensor], _ = discovered(root, **arguments)
    return {one.component: one.contains for one in sensor.channels}


@pytest.mark.parametrize(
    ("found", "accelerators"),
    [
        ((), {"gpu:0": (), "gpu:1": ()}),
        (("gpu:0", "gpu:1"), {"module:0": ("gpu:0",), "module:1": ("gpu:1",)}),
        (
            [f"gpu:{k}" for k in range(4)],
            {"module:0": ("gpu:0", "gpu:1"), "module:1": ("gpu:2", "gpu:3")},
        ),
        (("gpu:0", "gpu:1", "gpu:2"), {"module:0": ("gpu",), "module:1": ("gpu",)}),
    ],
)
def test_accelerators_are_gpus_or_the_modules_around_them(
    tmp_path, monkeypatch, found, accelerators
):
    Counters(tmp_path, monkeypatch)
    parts = contents(tmp_path, found=found)
    node = parts.pop("node")
    assert {"cpu", "gpu", "dram", "module"} <= {*node}
    assert parts == {"cpu:0": (), "dram:0": (), **accelerators}


def test_a_counter_of_all_sockets_contains_them(tmp_path, monkeypatch):
    Counters(tmp_path, monkeypatch, ("cpu_energy", "cpu0_energy", "cpu1_energy"))
    parts = contents(tmp_path)
    assert parts == {"cpu": ("cpu:0", "cpu:1"), "cpu:0": (), "cpu:1": ()}


def test_only_kinds_that_are_asked_for_are_read(tmp_path, monkeypatch):
    Counters(tmp_path, monkeypatch)
    assert set(contents(tmp_path, kinds=["dram"])) == {"dram:0"}


@pytest.mark.parametrize("skew", [0.0, 4e-5, -4e-5])
def test_readings_have_the_times_of_the_counters_clock(tmp_path, monkeypatch, skew):
    counters = Counters(tmp_path, monkeypatch, skew=skew)
    [sensor], _ = discovered(tmp_path)
    found = read_for(counters, sensor, 10.0)
    node = [one for one in found if sensor.channels[one.channel].component == "node"]
    assert len(node) == pytest.approx(103, abs=2)
    late_s = [one.t_ns * 1e-9 - one.value / POWER_W for one in node]
    assert max(map(abs, late_s)) < 0.004


def test_values_are_each_reported_once(tmp_path, monkeypatch):
    counters = Counters(tmp_path, monkeypatch)
    [sensor], _ = discovered(tmp_path)
    found = read_for(counters, sensor, 2.0)
    assert all(isinstance(one, Reading) for one in found)
    assert len({(one.channel, one.value) for one in found}) == len(found)


@pytest.mark.parametrize(
    ("frozen", "names"), [("freshness", NAMES), ("cpu_energy", ["cpu_energy"])]
)
def test_counters_that_stand_still_are_gaps(tmp_path, monkeypatch, frozen, names):
    counters = Counters(tmp_path, monkeypatch)
    [sensor], _ = discovered(tmp_path)
    counters.frozen.add(frozen)
    found = read_for(counters, sensor, 3.0)
    gaps = [one for one in found if isinstance(one, Gap)]
    assert {sensor.channels[one.channel].source for one in gaps} == {f"cray.{n}" for n in names}
    assert all("does not change" in one.reason for one in gaps)
    counters.frozen.clear()
    assert all(isinstance(one, Reading) for one in read_for(counters, sensor, 0.5))


def test_values_of_two_scans_are_not_mixed(tmp_path, monkeypatch):
    counters = Counters(tmp_path, monkeypatch)
    [sensor], _ = discovered(tmp_path)
    sensor.read()
    counters.sleep(0.1)
    real = cray.read_value

    def slow(path):
        counters.sleep(0.03)
        return real(path)

    monkeypatch.setattr(cray, "read_value", slow)
    gaps = sensor.read()
    assert len(gaps) == len(NAMES)
    assert all("changed each time" in one.reason for one in gaps)


def test_a_clock_that_is_set_is_a_gap_and_is_aligned_again(tmp_path, monkeypatch):
    counters = Counters(tmp_path, monkeypatch)
    [sensor], _ = discovered(tmp_path)
    counters.ahead_us += 3_600_000_000
    found = read_for(counters, sensor, 1.0)
    assert {one.reason for one in found if isinstance(one, Gap)} == {"the counters' clock jumped"}
    readings = [one for one in found if isinstance(one, Reading)]
    assert len(readings) > 8 * len(NAMES)
    assert readings[-1].t_ns * 1e-9 == pytest.approx(readings[-1].value / POWER_W, abs=0.04)


@pytest.mark.parametrize(
    "text", ["", "nan J 5 us", "-5 J 5 us", "123", "5 W 5 us", "1.5 J 5 us", "5 J 5 us 6"]
)
def test_what_is_not_joules_and_a_time_is_a_gap(tmp_path, monkeypatch, text):
    counters = Counters(tmp_path, monkeypatch)
    [sensor], _ = discovered(tmp_path)
    counters.frozen.add("cpu_energy")
    (counters.path / "cpu_energy").write_text(text)
    found = read_for(counters, sensor, 0.5)
    gaps = [one for one in found if isinstance(one, Gap)]
    assert {sensor.channels[one.channel].component for one in gaps} == {"cpu:0"}
    assert "not joules and a time" in gaps[0].reason


@pytest.mark.parametrize("name", ["cpu_energy", "freshness"])
@pytest.mark.parametrize("target", ["/nowhere", "/proc/self/mem"])
def test_files_that_cannot_be_read_are_gaps_until_they_can(tmp_path, monkeypatch, name, target):
    counters = Counters(tmp_path, monkeypatch)
    [sensor], _ = discovered(tmp_path)
    counters.frozen.add(name)
    (counters.path / name).unlink()
    (counters.path / name).symlink_to(target)
    found = read_for(counters, sensor, 0.5)
    components = {sensor.channels[one.channel].component for one in found if isinstance(one, Gap)}
    assert len(components) == (1 if name == "cpu_energy" else len(NAMES))
    (counters.path / name).unlink()
    counters.frozen.clear()
    assert all(isinstance(one, Reading) for one in read_for(counters, sensor, 0.5))


def test_what_cannot_be_read_at_first_is_absent(tmp_path, monkeypatch):
    counters = Counters(tmp_path, monkeypatch)
    (counters.path / "cpu_energy").write_text("off\n")
    counters.frozen.add("cpu_energy")
    _, [absence] = discovered(tmp_path)
    assert (absence.component, absence.source) == ("cpu:0", "cray.cpu_energy")
    assert "'off'" in absence.reason
