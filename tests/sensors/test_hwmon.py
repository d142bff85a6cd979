"""Hwmon meters on trees that stand still: components, what they contain, and what goes wrong."""

import contextlib
import os
import time

import pytest
from live_files import Wave
from live_hwmon import LiveFiles, Tree

from joulelab.machine import describe
from joulelab.sensors import discovery, hwmon, hwmon_pace
from joulelab.sensors.hwmon import discover_hwmon
from joulelab.sensors.nvml import NO_GPU
from joulelab.sensors.plausibility import max_power_w
from joulelab.sensors.sensor import Gap, Quantity, Reading

STEADY = Wave(100, 100, 1.0)


@pytest.fixture(autouse=True)
def no_observation(monkeypatch):
    """Values that stand still do not show their period: do not wait for it."""
    monkeypatch.setattr(hwmon, "update_periods_s", lambda reads, _: [None] * len(reads))
    for name in hwmon.AMD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def close_all(monkeypatch):
    """Close the directories of every sensor, or those of hundreds of tests stay open."""
    opened = []
    begin = hwmon.HwmonSensor.__init__

    def watched(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        opened.append(self)

    monkeypatch.setattr(hwmon.HwmonSensor, "__init__", watched)
    yield
    for sensor in opened:
        sensor.close()


@pytest.fixture
def tree(tmp_path):
    with contextlib.closing(LiveFiles()) as live:
        yield Tree(tmp_path / "sys", live)


def found_in(tree, kinds=discovery.MEASURABLE, others=()):
    tree.live.write()
    return discover_hwmon(kinds, others, root=tree.root)


def channels(sensors):
    return {one.component: one for sensor in sensors for one in sensor.channels if one.gives_energy}


def contents(tree, **arguments):
    """What each component's meter contains."""
    return {name: one.contains for name, one in channels(found_in(tree, **arguments)[0]).items()}


def values(sensors):
    return {
        sensor.channels[one.channel].component: one.value if isinstance(one, Reading) else one
        for sensor in sensors
        for one in sensor.read()
        if sensor.channels[one.channel].gives_energy
    }


def test_a_machine_without_such_drivers_has_nothing_and_misses_nothing(tree):
    tree.device("platform", "coretemp.0", "coretemp", power1_input=5_000_000)
    assert found_in(tree) == ([], [])


def test_a_gpu_has_power_its_bound_and_telemetry(tree):
    path = tree.amdgpu("0000:0a:00.0", STEADY, cap_w=300, temp1_input=64000)
    (path / "power1_cap_max").write_text("315000000\n")
    sensors, absent = found_in(tree)
    assert absent == []
    power = channels(sensors)["gpu:0"]
    assert (power.source, max_power_w(power)) == ("amdgpu.power1_average", 1.5 * 315)
    [slow] = [one for one in sensors if one.interval_s == 1.0]
    by_quantity = dict(zip((one.quantity for one in slow.channels), slow.read(), strict=True))
    assert by_quantity[Quantity.UTILIZATION].value == 87
    assert by_quantity[Quantity.MEMORY_USED].value == 2**34
    assert by_quantity[Quantity.TEMPERATURE].value == 64


@pytest.mark.parametrize("shows", ["0", None])
@pytest.mark.parametrize("silent", [0, 1])
def test_a_die_without_a_meter_belongs_to_the_other_die_of_its_module(tree, shows, silent):
    for number in range(4):
        is_silent = number % 2 == silent
        path = tree.amdgpu(f"0000:c{number}:00.0", None if is_silent else STEADY)
        if is_silent and shows:
            (path / "power1_average").write_text(f"{shows}\n")
    meters = [f"gpu:{2 * module + 1 - silent}" for module in (0, 1)]
    dies = [f"gpu:{2 * module + silent}" for module in (0, 1)]
    assert contents(tree) == {meter: (die,) for meter, die in zip(meters, dies, strict=True)}
    _, absent = found_in(tree)
    assert [one.component for one in absent] == dies
    assert f"{meters[1]}, which measures both dies" in absent[1].reason


def test_gpus_of_two_models_are_not_dies_of_one_module(tree):
    silent = tree.amdgpu("0000:c0:00.0")
    (silent.parents[1] / "device").write_text("0x744c\n")
    tree.amdgpu("0000:c1:00.0", STEADY)
    assert contents(tree) == {"gpu:1": ()}
    assert "shows no power" in found_in(tree)[1][0].reason


def test_a_gpu_that_sleeps_has_power_when_it_wakes_up(tree, monkeypatch):
    tree.amdgpu("0000:0a:00.0", Wave(20, 20, 1.0))
    sleeping = tree.amdgpu("0000:0b:00.0", STEADY)
    asleep, real = [True], os.open

    def opened(path, *arguments, **keywords):
        file = str(path)
        if asleep and file.endswith("power1_average") and file.startswith(str(sleeping)):
            raise PermissionError(1, "Operation not permitted")
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", opened)
    sensors, absent = found_in(tree)
    assert absent == []
    asleep.clear()
    assert values(sensors) == {"gpu:0": 20.0, "gpu:1": 100.0}


def test_a_gpu_that_alone_shows_nothing_is_absent_with_its_reason(tree):
    tree.amdgpu("0000:0a:00.0")
    [absence] = found_in(tree)[1]
    assert "no power1_average or power1_input" in absence.reason
    assert "kernel" in absence.hint


def test_a_processor_with_graphics_is_a_soc(tree):
    tree.amdgpu("0000:0a:00.0", STEADY, in1_label="vddnb")
    assert contents(tree) == {"soc": ("cpu", "gpu:0")}


def test_zero_is_no_power_of_a_gpu(tree):
    path = tree.amdgpu("0000:0a:00.0", STEADY)
    sensors, _ = found_in(tree)
    (path / "power1_average").write_text("0\n")
    assert isinstance(values(sensors)["gpu:0"], Gap)


@pytest.mark.parametrize("by", ["pci", "nvml"])
def test_gpus_are_numbered_after_nvidias(tree, by):
    for number in range(2):
        device = tree.root / "bus/pci/devices" / f"0000:0{number}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        # The second is a sound device.
        (device / "class").write_text(f"0x0{3 + number}0200\n")
    tree.amdgpu("0000:0a:00.0", STEADY)
    card = tree.device("pci0000:00", "0000:03:00.0", "xe", energy1_label="pkg")
    tree.energy(card / "energy1_input", STEADY)
    first = 4 if by == "nvml" else 1
    found = channels(found_in(tree, others=("gpu:3", "cpu:0") if by == "nvml" else ())[0])
    assert {name: one.source.partition(".")[0] for name, one in found.items()} == {
        f"gpu:{first}": "xe",
        f"gpu:{first + 1}": "amdgpu",
    }


@pytest.mark.parametrize(
    ("rocr", "hip", "left"),
    [
        (None, "2,0", {"gpu:0", "gpu:2"}),
        ("1,2", "1", {"gpu:2"}),
        ("GPU-b", None, {"gpu:1"}),
        ("", None, set()),
    ],
)
def test_amds_variables_select_gpus(tree, monkeypatch, rocr, hip, left):
    for number, name in enumerate("abc"):
        path = tree.amdgpu(f"0000:0{number}:00.0", STEADY)
        (path.parents[1] / "unique_id").write_text(f"{name}\n")
    for name, value in zip(hwmon.AMD_VARIABLES, (rocr, hip), strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    sensors, absent = found_in(tree)
    assert set(channels(sensors)) == left
    assert all(one.component in left for sensor in sensors for one in sensor.channels)
    assert bool(absent) == (not left)


def test_one_gpu_of_several_can_be_asked_for(tree, monkeypatch):
    for number in range(3):
        tree.amdgpu(f"0000:0{number}:00.0", STEADY)
    tree.live.write()
    monkeypatch.setenv("JOULELAB_SYSFS", str(tree.root))
    found = discovery.discover(["gpu:1"])
    assert set(channels(found.sensors)) == {"gpu:1"}
    assert values(found.sensors) == {"gpu:1": 100.0}


@pytest.mark.parametrize(
    ("driver", "labels", "expected"),
    [
        ("xe", {"energy1": "card", "energy2": "pkg"}, {"card:0": ("gpu:0",), "gpu:0": ()}),
        ("xe", {"energy1": None, "energy2": None}, {"card:0": ("gpu:0",), "gpu:0": ()}),
        ("xe", {"energy2": "pkg"}, {"gpu:0": ()}),
        ("xe", {"energy1": "card"}, {"gpu:0": ()}),
        ("i915", {"energy1": None}, {"gpu:0": ()}),
    ],
)
def test_a_card_contains_its_package(tree, driver, labels, expected):
    path = tree.device("pci0000:00", "0000:03:00.0", driver, power1_max=190_000_000)
    for name, label in labels.items():
        tree.energy(path / f"{name}_input", STEADY)
        if label:
            (path / f"{name}_label").write_text(f"{label}\n")
    found = channels(found_in(tree)[0])
    assert {name: one.contains for name, one in found.items()} == expected
    assert all((one.wrap, max_power_w(one)) == (2**18, 285) for one in found.values())


@pytest.mark.parametrize(
    ("rails", "expected"),
    [
        ({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}, {"gpu:0", "cpu:0", "rail:VIN_SYS_5V0"}),
        ({"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}, {"node", "cpu+gpu", "soc"}),
        ({"GPU", "CPU", "SOC", "CV", "VDDRQ"}, {"gpu:0", "cpu:0", "soc", "rail:CV", "dram:0"}),
        ({"VDD_IN", "VDD_SYS_GPU", "VDD_SYS_DDR", "VDD_3V3_IO"}, {"node", "gpu:0", "dram:0"}),
        ({"VDD_MUX", "VDD_IN", "VDD_SYS_CPU"}, {"node", "module:0", "cpu:0"}),
        ({"POM_5V_IN", "POM_5V_GPU", "NC"}, {"node", "gpu:0"}),
    ],
)
@pytest.mark.parametrize("make", [Tree.ina3221, Tree.ina3221x])
def test_rails_are_components(tree, rails, expected, make):
    names = sorted(rails)
    for number in range(0, len(names), 3):
        make(tree, f"1-004{number}", [(name, STEADY) for name in names[number : number + 3]])
    found = contents(tree)
    assert set(found) == expected
    assert values(found_in(tree)[0]) == dict.fromkeys(expected, pytest.approx(100.0))
    if "node" in found:
        assert {"gpu", "cpu", "dram", "soc", "module", "cpu+gpu"} <= {*found["node"]}


def test_a_rail_that_is_switched_off_is_not_read(tree):
    path = tree.ina3221("1-0040", [("VDD_GPU", STEADY), ("VDD_CPU", STEADY)])
    (path / "in2_enable").write_text("0\n")
    assert set(contents(tree)) == {"gpu:0"}


def test_the_shunt_of_a_rail_bounds_its_zero_and_its_power(tree):
    path = tree.ina3221("1-0040", [("VDD_GPU", STEADY)])
    (path / "shunt1_resistor").write_text("2000\n")
    rail = channels(found_in(tree)[0])["gpu:0"]
    assert rail.resolution == pytest.approx(40e-6 / 0.002 * 5)
    assert rail.offset_uncertainty_w == pytest.approx(80e-6 / 0.002 * 5 / 3**0.5)
    assert max_power_w(rail) == pytest.approx(0.1638 / 0.002 * 26)


@pytest.mark.parametrize("is_new", [False, True], ids=["old driver", "new driver"])
def test_grace_has_its_parts_by_socket(tree, is_new):
    for socket in (0, 1):
        for number, name in enumerate(("Module", "Grace", "CPU", "SysIO")):
            path = tree.meter(f"ACPI000D:{socket}{number}", STEADY, f"{name} Power Socket {socket}")
            if is_new:
                for file in path.parents[1].glob("*[!n]"):
                    if file.is_file():
                        file.rename(path / file.name)
    parts = ("cpu:1", "soc:1", "dram:1")
    found = contents(tree, others=[f"gpu:{k}" for k in range(4)])
    assert set(found) == {
        f"{kind}:{k}" for kind in ("module", "socket", "cpu", "soc") for k in (0, 1)
    }
    assert found["socket:1"] == parts
    assert found["module:1"] == ("socket:1", "card:1", *parts, "gpu:2", "gpu:3")


def test_a_servers_meter_is_the_node_with_the_accuracy_that_it_states(tree):
    path = tree.meter("ACPI000D:00", STEADY, "Chassis", interval_s=1.0)
    found, _ = found_in(tree)
    node = channels(found)["node"]
    assert (node.window_s, node.update_period_s) == (1.0, 1.0)
    assert node.unverified_window
    assert node.gain_uncertainty == pytest.approx(0.05 / 3**0.5)
    assert {"cpu", "gpu", "dram"} <= {*node.contains}
    tree.meter("ACPI000D:01", STEADY, "Enclosure")
    sensors, [absence] = found_in(tree)
    assert set(channels(sensors)) == {"node"}
    assert "'Enclosure'" in absence.reason
    (path.parents[1] / "power1_is_battery").write_text("1\n")
    assert channels(found_in(tree)[0])["node"].source == "power_meter.Enclosure"


def test_sockets_of_amd_energy_are_processors(tree):
    path = tree.device(
        "platform", "amd_energy.0", "amd_energy", energy1_label="Ecore000", energy3_label="Esocket1"
    )
    for number in (1, 3):
        tree.energy(path / f"energy{number}_input", STEADY)
    found = channels(found_in(tree)[0])
    assert set(found) == {"cpu:1"}
    assert (found["cpu:1"].wrap, found["cpu:1"].priority) == (2**16, 1)


def test_power_chips_are_numbered_in_order(tree):
    labels = {
        f"power{k}_label": name
        for k, name in enumerate(
            ("System", "Chip 0 ", "Chip 0 Vdd", "Chip 8 ", "Chip 8 Memory", "Chip 8 GPU", "Fan")
        )
    }
    path = tree.device("platform", "opal", "ibmpowernv", **labels)
    for number in range(len(labels)):
        tree.power(path / f"power{number}_input", STEADY)
    found = contents(tree, others=[f"gpu:{k}" for k in range(4)])
    assert set(found) == {"node", "cpu:0", "cpu:1", "dram:1", "card:1"}
    assert found["card:1"] == ("gpu:2", "gpu:3")


def test_only_kinds_that_are_asked_for_are_read(tree):
    tree.ina3221("1-0040", [("VDD_IN", STEADY), ("VDD_CPU_GPU_CV", STEADY), ("VDD_SOC", STEADY)])
    assert set(contents(tree, kinds=["gpu"])) == {"cpu+gpu"}
    assert set(contents(tree, kinds=["node"])) == {"node"}


def test_a_device_keeps_its_readings_when_its_number_changes(tree):
    first, second = (
        tree.amdgpu(f"0000:0{k}:00.0", Wave(w, w, 1.0)) for k, w in enumerate((50, 90))
    )
    sensors, _ = found_in(tree)
    aside = first.with_name("aside")
    for old, new in (
        (first, aside),
        (second, second.parent / first.name),
        (aside, first.parent / second.name),
    ):
        old.rename(new)
    for link in (tree.root / "class/hwmon").iterdir():
        link.unlink()
    for path in (first.parent / second.name, second.parent / first.name):
        (tree.root / "class/hwmon" / path.name).symlink_to(path)
    assert values(sensors) == {"gpu:0": 50.0, "gpu:1": 90.0}


def test_a_device_that_comes_back_with_another_number_is_found(tree, monkeypatch):
    monkeypatch.setattr(hwmon, "SEARCH_NS", 0)
    path = tree.amdgpu("0000:0a:00.0", STEADY)
    other = tree.amdgpu("0000:0b:00.0", Wave(70, 70, 1.0))
    sensors, _ = found_in(tree)
    gone = tree.root / "gone"
    path.rename(gone)
    # Its number now belongs to another device.
    (tree.root / "class/hwmon" / path.name).unlink()
    (tree.root / "class/hwmon" / path.name).symlink_to(other)
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    assert isinstance(values(sensors)["gpu:0"], Gap)
    back = path.with_name("hwmon77")
    back.mkdir()
    (back / "name").write_text("amdgpu\n")
    (back / "power1_average").write_text("110000000\n")
    (tree.root / "class/hwmon/hwmon77").symlink_to(back)
    values(sensors)
    assert values(sensors) == {"gpu:0": 110.0, "gpu:1": 70.0}


KINDS = {
    "amdgpu": lambda tree: tree.amdgpu("0000:0a:00.0", STEADY) / "power1_average",
    "xe": lambda tree: _counter(tree, "xe", "energy1_label", "pkg"),
    "i915": lambda tree: _counter(tree, "i915", "energy1_label", ""),
    "amd_energy": lambda tree: _counter(tree, "amd_energy", "energy1_label", "Esocket0"),
    "ibmpowernv": lambda tree: _counter(tree, "ibmpowernv", "energy1_label", "System"),
    "ina3221": lambda tree: tree.ina3221("1-0040", [("GPU", STEADY)]) / "curr1_input",
    "ina3221x": lambda tree: tree.ina3221x("1-0040", [("GPU", STEADY)]) / "in_power0_input",
    "power_meter": lambda tree: tree.meter("ACPI000D:00", STEADY).parents[1] / "power1_average",
}
TEXTS = {"NaN": "nan", "empty": "", "negative": "-5", "fraction": "1.5", "words": "N/A"}
ERRORS = {"EIO": 5, "ENODATA": 61, "ENODEV": 19, "permission": 13, "EAGAIN": 11}


def _counter(tree, driver, file, label):
    path = tree.device("pci0000:00", "0000:0a:00.0", driver, **{file: label})
    tree.energy(path / "energy1_input", STEADY)
    return path / "energy1_input"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [*TEXTS, *ERRORS, "vanish", "hang", "directory", "slow"])
def test_a_fault_is_a_gap_with_its_reason_and_ends_with_it(tree, monkeypatch, kind, fault):
    file = KINDS[kind](tree)
    sensors, _ = found_in(tree)
    [before] = values(sensors).values()
    aside, real = file.with_suffix(".aside"), os.open
    clock_ns = iter(range(0, 10**12, 10**9))
    with monkeypatch.context() as patch:
        if fault in ERRORS:

            def failing(path, *arguments, **keywords):
                if str(path).endswith(file.name):
                    raise OSError(ERRORS[fault], os.strerror(ERRORS[fault]))
                return real(path, *arguments, **keywords)

            patch.setattr(os, "open", failing)
        elif fault == "slow":
            patch.setattr(hwmon.time, "monotonic_ns", lambda: next(clock_ns))
        else:
            file.rename(aside)
        if fault in TEXTS:
            file.write_text(f"{TEXTS[fault]}\n")
        elif fault == "hang":
            os.mkfifo(file)
        elif fault == "directory":
            file.mkdir()
        [gap] = values(sensors).values()
    assert isinstance(gap, Gap)
    expected = os.strerror(ERRORS[fault]).lower() if fault in ERRORS else gap.reason
    assert gap.reason == expected != ""
    if aside.exists():
        if fault == "directory":
            file.rmdir()
        aside.replace(file)
    assert values(sensors) == dict.fromkeys(values(sensors), before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_read_at_first_is_absent_with_its_path(tree, kind):
    file = KINDS[kind](tree)
    file.unlink()
    file.symlink_to("/proc/self/mem")
    sensors, absent = found_in(tree)
    assert channels(sensors) == {}
    assert absent
    assert any(file.name in one.reason for one in absent)


def test_a_power_that_cannot_be_is_refused_at_first(tree):
    path = tree.amdgpu("0000:0a:00.0", cap_w=300)
    (path / "power1_average").write_text("9000000000\n")
    sensors, [absence] = found_in(tree)
    assert channels(sensors) == {}
    assert "more than a GPU can draw (at most 450 W)" in absence.reason


def test_a_driver_that_does_not_answer_is_absent(tree, monkeypatch):
    tree.amdgpu("0000:0a:00.0", STEADY)
    monkeypatch.setattr(hwmon, "ANSWER_S", 0.05)
    answered = []
    monkeypatch.setattr(hwmon, "list_devices", lambda *_: answered.append(input_forever()))
    sensors, absent = found_in(tree, kinds=["gpu"])
    assert sensors == []
    assert "has not answered" in absent[0].reason


def input_forever():
    read, _ = os.pipe()
    return os.read(read, 1)


def test_power_is_polled_less_often_where_there_are_many_devices(tree):
    intervals_s = []
    for number in range(24):
        tree.amdgpu(f"0000:{number:02x}:00.0", STEADY)
        if number in (0, 23):
            intervals_s.append(min(one.interval_s for one in found_in(tree)[0]))
    assert intervals_s[0] < intervals_s[1] <= hwmon_pace.SLOWEST_INTERVAL_S


def test_meters_around_others_are_polled_half_as_often(tree, monkeypatch):
    monkeypatch.setattr(hwmon, "polling_cost_s", lambda _: 200e-6)
    for number, part in enumerate(("Module", "Grace", "CPU", "SysIO")):
        tree.meter(f"ACPI000D:0{number}", STEADY, f"{part} Power Socket 0", interval_s=0.05)
    inner, around = sorted(found_in(tree)[0], key=lambda one: one.interval_s)
    assert {one.component for one in inner.channels} == {"cpu:0", "soc:0"}
    assert {one.component for one in around.channels} == {"module:0", "socket:0"}
    assert (inner.interval_s, around.interval_s) == pytest.approx((0.023, 0.046))


def test_a_node_is_polled_less_often_around_what_others_measure(tree):
    tree.meter("ACPI000D:00", STEADY, "", interval_s=1.0)
    intervals_s = [
        [one.interval_s for one in found_in(tree, others=others)[0]] for others in ((), ("cpu:0",))
    ]
    assert intervals_s == [[0.046], [0.1]]


def test_observed_periods_are_used_where_values_show_them(tree, monkeypatch):
    tree.amdgpu("0000:0a:00.0", STEADY)
    tree.energy(tree.device("pci0000:00", "0000:0b:00.0", "i915") / "energy1_input", STEADY)
    tree.live.write()

    def observed(reads, _):
        for number in range(10):
            if number:
                tree.live.write()
            time.sleep(0.002)
            for read in reads:
                read()
        return [0.25] * len(reads)

    monkeypatch.setattr(hwmon, "update_periods_s", observed)
    sensors, _ = found_in(tree)
    found = channels(sensors)
    assert found["gpu:1"].update_period_s == 0.25
    assert found["gpu:0"].update_period_s != 0.25
    # What was read during this time begins the recording, and is given once.
    for sensor in (one for one in sensors if one.channels[0].gives_energy):
        counts = [len(sensor.read()) for _ in range(2)]
        assert counts[0] > counts[1] == 1


def test_the_machine_names_its_gpus_as_their_components(tree, monkeypatch):
    path = tree.amdgpu("0000:0a:00.0", STEADY, cap_w=300)
    (path.parents[1] / "product_name").write_text("AMD Instinct MI210\n")
    (path.parents[1] / "mem_info_vram_total").write_text(f"{2**36}\n")
    path = tree.amdgpu("0000:0c:00.0", STEADY, cap_w=250)
    (path.parents[1] / "vendor").write_text("0x1002\n")
    tree.live.write()
    monkeypatch.setenv("JOULELAB_SYSFS", str(tree.root))
    first, second = (gpu for gpu in describe().gpus if gpu.driver == "amdgpu")
    assert (first.index, first.name, first.power_limit_w) == (0, "AMD Instinct MI210", 300.0)
    assert (first.memory_bytes, first.uuid) == (2**36, "0000:0a:00.0")
    assert (second.index, second.name) == (1, "AMD GPU 1002:740c")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert [gpu.index for gpu in describe().gpus] == [1]


def test_no_gpu_is_said_to_be_missing_next_to_one(tree, monkeypatch):
    tree.amdgpu("0000:0a:00.0", STEADY)
    tree.live.write()
    monkeypatch.setenv("JOULELAB_SYSFS", str(tree.root))
    assert NO_GPU not in {one.reason for one in discovery.discover(["gpu"]).absent}
    monkeypatch.setenv("JOULELAB_SYSFS", str(tree.root / "none"))
    assert NO_GPU in {one.reason for one in discovery.discover(["gpu"]).absent}


def test_a_stated_window_stays_the_period_where_values_change_within_it(tree, monkeypatch):
    path = tree.meter("ACPI000D:00", STEADY, "", interval_s=1.0)
    monkeypatch.setattr(hwmon, "DISTINCT_VALUES", 0)
    monkeypatch.setattr(
        hwmon, "update_periods_s", lambda reads, _: [0.005 for read in reads if read()]
    )
    (path.parents[1] / "power1_average").write_text("123000000\n")
    node = channels(found_in(tree)[0])["node"]
    assert (node.window_s, node.update_period_s) == (1.0, 1.0)
