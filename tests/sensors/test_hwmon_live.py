"""Machines of every kind that hwmon and Cray's counters know, with square waves of known energy.

They live at the same time: each has a tree of its own and a meter that reads it.
"""

import math
import os
import time
from contextlib import ExitStack

import numpy as np
import pytest
from live_files import Sum, Wave, enable, evaluate, write_file
from live_hwmon import LiveFiles, Tree

import joulelab
from joulelab.sensors.sensor import Provenance

WAVES = [Wave(40 + 10 * k, 160 + 17 * k, 0.4 + 0.1 * k, 0.13 * k) for k in range(8)]
CLOCK_AHEAD_S = 1e9
LIMIT_W = 150
IN_TIME_S = 0.05
CONSTANT = Wave(80, 120, 0.05)
REASONS = {
    "none": "",
    "vanish": "no such file",
    "EIO": "input/output error",
    "no data": "is a directory",
    "freeze": "",
    "wrap": "was reset",
    "reset": "was reset",
    "jump": "than a GPU can draw",
    "NaN": "'nan'",
    "empty": "''",
    "huge": "than a GPU can draw",
    "negative": "a negative number",
    "hang": "''",
}
"""What notes say about each fault; empty where nothing is lost, or nothing shows it."""


def of_gpus(tree):
    """Intel's and AMD's GPUs, one of them of two dies, and AMD's processors in a server."""
    card = tree.device(
        "pci0000:00", "0000:03:00.0", "xe", energy1_label="card", energy2_label="pkg"
    )
    tree.energy(card / "energy1_input", Sum((WAVES[0],), 15.0))
    tree.energy(card / "energy2_input", WAVES[0], start_j=2**18 - 200, wrap_j=2**18)
    plain = tree.device("pci0000:00", "0000:04:00.0", "i915")
    tree.energy(plain / "energy1_input", WAVES[1])
    tree.amdgpu("0000:0a:00.0", WAVES[2])
    tree.amdgpu("0000:0b:00.0", WAVES[3], file="power1_input")
    tree.amdgpu("0000:c1:00.0", WAVES[4])
    (tree.amdgpu("0000:c6:00.0") / "power1_average").write_text("0\n")
    labels = {f"energy{k}_label": one for k, one in enumerate(("Ecore000", "Esocket0", "Esocket1"))}
    amd = tree.device("platform", "amd_energy.0", "amd_energy", **labels)
    tree.energy(amd / "energy0_input", WAVES[5])
    tree.energy(amd / "energy1_input", WAVES[5], start_j=2**16 - 300, wrap_j=2**16)
    tree.energy(amd / "energy2_input", WAVES[6])
    tree.meter("ACPI000D:00", Sum(tuple(WAVES[:7]), 100.0))
    gpus = {f"gpu:{k}": WAVES[k] for k in range(5)}
    return gpus | {"cpu:0": WAVES[5], "cpu:1": WAVES[6]}, {"node", "card:0"}


def of_jetson(tree):
    """JetPack 5: two chips, a rail of processor and GPU, one that is not connected."""
    module = Sum(tuple(WAVES[:3]), 30.0)
    rails = [("VDD_IN", module), ("VDD_CPU_GPU_CV", WAVES[0]), ("VDD_SOC", WAVES[1])]
    tree.ina3221("1-0040", rails)
    tree.ina3221("1-0041", [("NC", WAVES[3]), ("VDDQ_VDD2_1V8AO", WAVES[2])])
    return {"cpu+gpu": WAVES[0], "soc": WAVES[1], "dram:0": WAVES[2]}, {"node"}


def of_old_jetson(tree):
    """JetPack 4."""
    rails = [("POM_5V_GPU", WAVES[0]), ("POM_5V_CPU", WAVES[1])]
    tree.ina3221x("6-0040", [("POM_5V_IN", Sum(tuple(WAVES[:2]), 30.0)), *rails])
    return {"gpu:0": WAVES[0], "cpu:0": WAVES[1]}, {"node"}


def of_grace(tree):
    """Two sockets."""
    for socket in (0, 1):
        cores, rest = WAVES[socket], WAVES[socket + 2]
        parts = {
            "Module": Sum((cores, rest, WAVES[4]), 50.0),
            "Grace": Sum((cores, rest), 20.0),
            "CPU": cores,
            "SysIO": rest,
        }
        for number, (name, load) in enumerate(parts.items()):
            tree.meter(f"ACPI000D:{socket}{number}", load, f"{name} Power Socket {socket}")
    leaves = {"cpu:0": WAVES[0], "cpu:1": WAVES[1], "soc:0": WAVES[2], "soc:1": WAVES[3]}
    return leaves, {"module:0", "module:1", "socket:0", "socket:1"}


def of_power(tree):
    """POWER9: the first chip has a counter, too, and a part that is inside it."""
    names = "System", "Chip 0 ", "Chip 8 ", "Chip 0 Memory", "Chip 0 Vdd"
    labels = {f"power{k}_label": name for k, name in enumerate(names, 1)}
    path = tree.device("platform", "opal", "ibmpowernv", energy1_label="Chip 0 ", **labels)
    loads = [Sum(tuple(WAVES[:3]), 60.0), *WAVES[:3], WAVES[3]]
    for number, load in enumerate(loads, 1):
        tree.power(path / f"power{number}_input", load)
    tree.energy(path / "energy1_input", WAVES[0])
    return {"cpu:0": WAVES[0], "cpu:1": WAVES[1], "dram:0": WAVES[2]}, {"node"}


def of_cray(tree):
    parts = {"cpu": WAVES[0], "memory": WAVES[1], "accel0": WAVES[2], "accel1": WAVES[3]}
    loads = {f"{name}_energy": load for name, load in parts.items()}
    tree.cray({"energy": Sum(tuple(WAVES[:4]), 80.0), **loads}, CLOCK_AHEAD_S)
    return {"cpu:0": WAVES[0], "dram:0": WAVES[1], "gpu:0": WAVES[2], "gpu:1": WAVES[3]}, {"node"}


MACHINES = {
    "gpus": of_gpus, "jetson": of_jetson, "old jetson": of_old_jetson, "grace": of_grace,
    "power": of_power, "cray": of_cray,
}  # fmt: skip


class Faults:
    """GPUs with a counter, and GPUs with power, of which each has one fault for a second."""

    def __init__(self, tree):
        self.gpus = [(kind, fault) for kind in ("counter", "power") for fault in REASONS]
        self._files = []
        counted = f"1000 + {CONSTANT}.energy_j({time.monotonic()}, t_s)"
        for number, (kind, fault) in enumerate(self.gpus):
            address = f"0000:{number + 16:02x}:00.0"
            if kind == "counter":
                path = tree.device(
                    "pci0000:00", address, "xe", energy1_label="pkg", power1_max=LIMIT_W * 10**6
                )
                file, value = path / "energy1_input", counted
            else:
                file = tree.amdgpu(address, cap_w=LIMIT_W) / "power1_average"
                value = f"{CONSTANT}.power_w(t_s)"
            tree.live.add(file, in_millionths(value))
            self._files.append((kind, fault, file, value))

    def begin(self):
        for kind, fault, file, value in self._files:
            if fault in ("vanish", "EIO", "no data", "hang"):
                file.rename(file.with_suffix(".aside"))
            if fault == "EIO":
                # Nothing is mapped at the beginning of a process's memory.
                file.symlink_to("/proc/self/mem")
            elif fault == "no data":
                file.mkdir()
            elif fault == "hang":
                os.mkfifo(file)
            elif fault in ("NaN", "empty", "huge"):
                write_file(file, {"NaN": "nan", "empty": "", "huge": 2**64 - 1}[fault])
            elif fault == "negative":
                write_file(file, f"=-{in_millionths(value)}")
            elif fault == "freeze":
                write_file(file, evaluate(in_millionths(value)))
            elif fault == "jump" and kind == "power":
                write_file(file, round(9000.0 * 1e6))
            elif fault == "jump":
                write_file(file, f"={in_millionths(f'5e6 + {value}')}")
            elif fault in ("wrap", "reset") and kind == "counter":
                write_file(file, f"={in_millionths(f'{value} - {evaluate(value)}')}")

    def end(self):
        """End the faults, but counters that were set go on from there."""
        for kind, fault, file, value in self._files:
            if file.is_dir():
                file.rmdir()
            if (aside := file.with_suffix(".aside")).exists():
                aside.replace(file)
            elif kind == "power" or fault in ("NaN", "empty", "huge", "negative", "freeze"):
                write_file(file, f"={in_millionths(value)}")


def in_millionths(expression):
    return f"round(({expression}) * 1e6)"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Each machine's parts and enclosing meters, and spans of 1, 1 and 4 s."""
    top = tmp_path_factory.mktemp("machines")
    live, meters, spans = LiveFiles(), {}, {}
    trees = {name: Tree(top / name.replace(" ", "-"), live) for name in (*MACHINES, "faults")}
    loads = {name: build(trees[name]) for name, build in MACHINES.items()}
    faults = Faults(trees["faults"])
    live.go_live()
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        stack.callback(live.close)
        enable(patch, top / "site")
        patch.setenv("JOULELAB_HOME", str(top / "home"))
        for name, tree in trees.items():
            patch.setenv("JOULELAB_SYSFS", str(tree.root))
            meters[name] = stack.enter_context(joulelab.Meter())
        broken = meters["faults"].begin("faults")
        for length_s in (1.0, 1.0, 4.0):
            begun = {name: meters[name].begin("work") for name in MACHINES}
            if length_s > 1.0:
                faults.begin()
            time.sleep(1.0)
            faults.end()
            time.sleep(length_s - 1.0)
            for name, span in begun.items():
                meters[name].end(span)
                spans.setdefault(name, []).append(span)
            time.sleep(0.3)
        meters["faults"].end(broken)
        spans["faults"] = [broken]
        energies = {name: [(one, one.energy) for one in some] for name, some in spans.items()}
        late_s = {name: longest_delay_s(meter.trace) for name, meter in meters.items()}
    return loads, energies, faults, late_s


def longest_delay_s(trace):
    """By how much a busy machine let the recorder read a sensor later than usual."""
    apart_s = [np.diff(one.t_ns) * 1e-9 for one in trace.series if one.t_ns.size > 1]
    return max(float(one.max() - np.median(one)) for one in apart_s)


def has_parts(energy, names, late_s):
    """Every part was measured, but for spans in which the recorder was hardly run."""
    absent = [energy.absent[name] for name in names if name not in energy.components]
    return not absent or (
        late_s > energy.duration_s / 4 and all("covers only" in one for one in absent)
    )


def assert_covers(part, true_j, late_s, why):
    """The interval contains the energy; of 95 % intervals around a long delay, some may not."""
    slack_j = (part.interval_j[1] - part.interval_j[0]) / 2 if late_s > IN_TIME_S else 0.0
    assert part.interval_j[0] - slack_j < true_j < part.interval_j[1] + slack_j, why


@pytest.mark.parametrize("machine", MACHINES)
def test_each_part_has_its_energy_and_its_interval_contains_it(measured, machine):
    loads, spans, _, late_s = measured
    parts = loads[machine][0]
    for span, energy in spans[machine]:
        bar = 0.03 if energy.duration_s > 3 else 0.08
        late = 2 * late_s[machine] / energy.duration_s
        assert has_parts(energy, parts.keys(), late_s[machine])
        for component in parts.keys() & energy.components.keys():
            true_j = parts[component].energy_j(span.start_ns * 1e-9, span.stop_ns * 1e-9)
            part = energy.components[component]
            assert part.provenance is Provenance.MEASURED
            assert part.gross_j == pytest.approx(true_j, rel=bar + late), component
            assert_covers(part, true_j, late_s[machine], component)


@pytest.mark.parametrize("machine", MACHINES)
def test_meters_around_others_are_next_to_the_total_and_never_in_it(measured, machine):
    loads, spans, _, late_s = measured
    parts, around = loads[machine]
    for _, energy in spans[machine]:
        by_meters = {
            name for name, one in energy.components.items() if one.provenance == "measured"
        }
        assert by_meters <= set(parts)
        assert has_parts(energy, parts.keys(), late_s[machine])
        assert set(energy.enclosing) == around or late_s[machine] > energy.duration_s / 4
        total_j = sum(one.gross_j for one in energy.components.values())
        assert energy.gross_j == pytest.approx(total_j or math.nan, nan_ok=True)


def test_a_die_without_a_meter_is_absent_and_names_the_one_that_measures_it(measured):
    _, spans, *_ = measured
    for _, energy in spans["gpus"]:
        assert "gpu:5" not in energy.components
        assert "gpu:4" in energy.absent["gpu:5"]


def test_each_fault_is_a_gap_or_a_refusal_with_a_reason(measured):
    _, spans, faults, late_s = measured
    [(span, energy)] = spans["faults"]
    true_j = CONSTANT.energy_j(span.start_ns * 1e-9, span.stop_ns * 1e-9)
    for number, (kind, fault) in enumerate(faults.gpus):
        component = f"gpu:{number}"
        reasons = [energy.absent.get(component, "")]
        reasons += [note for note in energy.notes if note.startswith(f"{component}: ")]
        if kind == "counter" or fault not in ("wrap", "reset"):
            assert any(REASONS[fault] in reason for reason in reasons), (kind, fault, reasons)
        if part := energy.components.get(component):
            assert_covers(part, true_j, late_s["faults"], (kind, fault))
