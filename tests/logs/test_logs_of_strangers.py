"""Logs as other tools write them, each with a known energy: 100 W for each device's number."""

from datetime import UTC, datetime, timedelta
from math import sin

import pytest

from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import read_logs
from joulelab.logs.span_energies import ImportedSpan, energy_rows

START = datetime(2026, 3, 14, 9, 30, tzinfo=UTC)
SECONDS = range(61)


def date(second, pattern="%Y-%m-%dT%H:%M:%S"):
    return (START + timedelta(seconds=second)).strftime(pattern)


def ramp(second):
    """Return a slow load of a single device."""
    return f"{300 + 200 * sin(second / 9):.1f}"


def power(device, second):
    return 100 * (device + 1) + (1.5 if second % 2 else -1.5)


def table(header, row, seconds=SECONDS):
    """Return a log of a row, or several, for each second."""
    rows = [row(second) for second in seconds]
    lines = [line for one in rows for line in ([one] if isinstance(one, str) else one)]
    return "\n".join([header, *lines, ""])


def read(tmp_path, text, name="log.csv", **options):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    log = read_logs([path], LogOptions(timezone="UTC", **options))
    return log, energy_rows(log, [ImportedSpan("", log.start_s, log.stop_s)])[0]


def hwinfo(second):
    watts = ",".join(f"{power(i, second)}" for i in range(3))
    return f"{date(second, '%-d.%-m.%Y,%H:%M:%S')}.1{second % 10}0,{watts},"


HWINFO = 'Date,Time,"CPU Package Power [W]","GPU Power [W]","GPU Power [W]",'
HWINFO_END = f'{HWINFO}\n,,"CPU [#0]","GPU [#0]","GPU [#1]",\n'
UPROF = (
    "PROFILE DETAILS\nCounter Name,ID,Unit,Description\nsocket0-package-power,48,W,Package\n"
    "core0-power,50,W,Core\n\nPROFILE RECORDS\nRecordId,Timestamp,socket0-package-power,core0-power"
)
TURBOSTAT = "Time_Of_Day_Seconds,Package,Core,CPU,Busy%,PkgWatt,RAMWatt"


def turbostat(second):
    time_s = START.timestamp() + second
    return [
        f"{time_s + cpu / 1e4},{package},{cpu},{cpu},50," + (f"{power(package, second)},10" * first)
        for package in range(2)
        for cpu, first in ((2 * package, True), (2 * package + 1, False))
    ]


READ = {
    "date and time of day in two columns": (
        table(
            "date,time,power_w",
            lambda i: f"{date(i + 52170, '%Y-%m-%d,%H:%M:%S')},{power(0, i)}"),
        {}, 6000),
    "HWiNFO, its columns by number": (
        table(HWINFO, hwinfo) + HWINFO_END, {"power_columns": ["3", "4", "5"]}, 36_000),
    "uProf, below its table of counters": (
        table(UPROF, lambda i: f"{i},{date(i, '%H:%M:%S')}:646,{power(0, i)},5.0"),
        {"power_columns": ["socket0-package-power"]}, 6000),
    "s-tui": (
        table("Time,Util:Avg,Power", lambda i: f"{date(i, '%Y-%m-%d_%H:%M:%S')},50,{power(0, i)}"),
        {}, 6000),
    "a clock of 12 hours without AM or PM": (
        table("time,power_w", lambda i: f"{date(i + 12570, '%I:%M:%S')},{power(0, i)}"), {}, 6000),
    "dates of a spreadsheet, without seconds": (
        table("time,power_w", lambda i: f"{date(60 * i, '%d.%m.%Y %H:%M')},{power(0, i)}"),
        {}, 360_000),
    "turbostat as CSV, without repeated headers": (table(TURBOSTAT, turbostat), {}, 19_200),
    "turbostat below its description of many processors": (
        "turbostat version 2023.11.07\n" + "cpu0: MSR_IA32_TEMPERATURE_TARGET: 0x00640a00\n" * 150
        + table("Time_Of_Day_Seconds\tPkgWatt\tRAMWatt", lambda i:
            f"{START.timestamp() + i}\t{power(0, i)}\t10.00"),
        {}, 6600),
    "rocm-smi with a warning in front": (
        table("WARNING: AMD GPU device(s) is/are in a low-power state.\n", lambda i: [
            f"{START.timestamp() + i:.0f}", "device,Average Graphics Package Power (W)",
            f"card0,{power(0, i)}"]),
        {}, 6000),
    "xpu-smi of tiles": (
        table("Timestamp, DeviceId, TileId, GPU Power (W)", lambda i: [
            f"{date(i, '%H:%M:%S')}.123,    0, {tile}, {power(tile, i)}" for tile in range(2)]),
        {}, 18_000),
    "ipmitool sdr elist": (
        table("", lambda i: [
            f"{START.timestamp() + i:.0f}",
            f"PS1 Input Power  | 77h | ok  | 10.1 | {power(0, i):.0f} Watts",
            "Inlet Temp | 30h | ok  |  7.1 | 22 degrees C"]),
        {}, 6000),
    "tegrastats without averages": (
        table("", lambda i: f"{date(i, '%m-%d-%Y %H:%M:%S')} RAM 1/2MB CPU [5%@729] "
            f"VDD_IN {1000 * power(0, i):.0f}mW VDD_SOC 1500mW"),
        {}, 6000),
    "perf stat --per-node": (
        table("# started on", lambda i: [
            f"     {i + 1}.0002,N{node},1,{power(node, i)},Joules,power/energy-pkg/,1,100.00,,"
            for node in range(2)]),
        {}, 300 * 61),
    "totals of perf stat in German": (
        " 6.000,50 Joules power/energy-pkg/\n\n      60,001234567 seconds time elapsed\n",
        {}, 6000),
    "a counter of a plug in steps of 0.1 kWh": (
        table("time,energy_kwh", lambda i: f"{date(360 * i)},{1234.5 + i // 10 / 10:.1f}"),
        {}, 0.6 * 3.6e6),
    "a log of a tool that was appended to itself": (
        2 * table("Timestamp, DeviceId, GPU Power (W)", lambda i:
            f"{date(i, '%H:%M:%S')}.1,    0, {power(0, i)}"),
        {}, 6000),
    "a log that was appended to itself": (
        2 * table("time,index,power_w", lambda i: [f"{date(i)},{k},{power(k, i)}" for k in (0, 1)]),
        {}, 18_000),
    "a utilisation that is called gpu": (
        table("time,gpu,power_w", lambda i: f"{date(i)},{97 - i % 5},{power(0, i)}"), {}, 6000),
    "InfluxDB": (
        table(",result,table,_start,_time,_value,_field,gpu", lambda i: [
            f",,{k},{date(0)}Z,{date(i)}Z,{power(k, i)},power_draw,{k}" for k in range(2)]),
        {"power_columns": ["_value"]}, 18_000),
    "boards of two models, of which one has no instantaneous power": (
        table("timestamp, index, power.draw.instant [W], power.draw [W]", lambda i: [
            f"{date(i)}, {k}, {'[N/A]' if k else f'{power(0, i)} W'}, {power(k, i)} W"
            for k in range(2)]),
        {}, 18_000),
    "more devices in a poll than rows in a usual sample": (
        table("time,hostname,gpu,power_w", lambda i: [
            f"{date(10 * i)}.{10 * host + gpu:03},n{host},{gpu},{power(gpu, i)}"
            for host in range(60) for gpu in range(4)]),
        {}, 60 * 1000 * 600),
    "hosts that write one after the other": (
        table("time,node,gpu,power_w", lambda i: [
            f"{date(i)},node{i % 5},{gpu},{power(gpu, i // 5)}" for gpu in range(2)], range(301)),
        {}, 5 * 300 * 300 * 295 / 300),
    "a bus that looks like a time of day": (
        table("", lambda i: [
            f"{date(i)}, {bus}, 97 %, {power(k, i)} W"
            for k, bus in enumerate(("00000000:01:00.0", "00000000:41:00.0"))]),
        {}, 18_000),
    "an abbreviated zone": (
        table("time,power_w", lambda i: f"{date(i, '%Y-%m-%d %H:%M:%S')} CET,{power(0, i)}"),
        {}, 6000),
    "a zone after the time": (
        table("time,power_w", lambda i: f"{date(i, '%Y-%m-%d %H:%M:%S')} UTC,{power(0, i)}"),
        {}, 6000),
    "a column of units": (
        table("time,power,unit", lambda i: f"{date(i)},{power(0, i) / 100},kW"), {}, 60_000),
    "cells in Watts, which are none of ipmitool": (
        table("time,Consumption", lambda i: f"{date(i)},{power(0, i)} Watts"), {}, 6000),
    "a plug that counts in Wh": (
        table("entity_id,state,last_changed", lambda i: f"sensor.plug_energy,{i / 36},{date(i)}Z"),
        {"energy_unit": "Wh"}, 6000),
    "a peak next to power": (
        table("time,peak_power_w,power_util,power_w", lambda i: f"{date(i)},400,30,{power(0, i)}"),
        {}, 6000),
    "two columns of several hosts": (
        table("time,hostname,cpu_w,gpu_w", lambda i: [
            f"{date(i)},node{host},{power(0, i)},{power(1, i)}" for host in "ab"]),
        {"power_columns": ["cpu_w", "gpu_w"]}, 36_000),
    "kilowatts of a meter in the house": (
        table("Time Bucket (Europe/Paris),Rack-Server (kWatts)", lambda i:
            f"{date(60 * i)},{power(0, i) / 1000:.5f}"),
        {}, 360_000),
    "zones of RAPL, of which one is chosen": (
        table("time,zone,energy_uj", lambda i: [
            f"{i},intel-rapl:{zone},{10**10 + 10**6 * (k + 1) * 100 * i}"
            for k, zone in enumerate(("0", "1", "0:0"))]),
        {"gpu": "intel-rapl:1"}, 12_000),
    "plugs of Home Assistant next to their total, by name": (
        table("entity_id,state,last_changed", lambda i: [
            f"sensor.{name},{watts},{date(i)}Z"
            for name, watts in (("a_power", 100), ("b_power", 200), ("total_power", 300))]),
        {"power_columns": ["sensor.a_power", "sensor.b_power"]}, 18_000),
    "a counter that could not be read now and then": (
        table("time,energy_j", lambda i: f"{i},{0 if i in (20, 40, 41) else 10**5 + 100 * i}"),
        {}, 6000),
    "a counter that leaps up for one reading": (
        table("time,energy_j", lambda i: f"{i},{3 * 10**5 if i == 20 else 10**5 + 100 * i}"),
        {}, 6000),
    "a counter that is reset often": (
        table("time,energy_j", lambda i: f"{i},{100 * (i % 30)}"), {}, 6000),
    "-1 for what could not be read": (
        table("time,power_w", lambda i: f"{date(i)},{power(0, i) if i % 7 else -1}"), {}, 6000),
    "0 for a board that could not be read": (
        table("timestamp, index, power.draw [W]", lambda i:
            f"{date(i)}, 0, {power(0, i) if i % 7 else 0} W"),
        {}, 6000),
    "rows of a tool without times": (
        table("Freq MHz act,Power W pkg,RC6 %", lambda i: f"900,{power(0, i)},20"),
        {"power_columns": ["2"], "interval_s": 2.0}, 12_000),
    "one column of power": (
        table("power [W]", lambda i: f"{power(0, i)}"), {"interval_s": 1.0}, 6000),
    "an outlet that is the sum of the others": (
        table("time,outlet,power_w", lambda i: [
            f"{date(i)},{outlet},{watts}" for outlet, watts in (
                ("a", 50 + i), ("b", 150 - i % 9), ("c", 200 + i - i % 9))]),
        {}, 60 * (50 + 30 + 146)),
    "outlets that draw 1, 2 and 3 times the same": (
        table("time,outlet,power_w", lambda i: [
            f"{date(i)},{k},{(k + 1) * (100 + i % 2)}" for k in range(3)]),
        {}, 36_200),
    "one board in the rows of two containers": (
        table("time,container,uuid,power_w", lambda i: [
            f"{date(i)},c{k},GPU-1a,{power(0, i)}" for k in range(2)]),
        {}, 6000),
    "boards in step, in every poll": (
        table("time,power_w", lambda i: [f"{i}.{k}5,{100 + 200 * (i // 7 % 2)}" for k in range(3)]),
        {"devices": 3}, 3 * (60 * 100 + 200 * 28)),
    "boards that are named, in a load that alternates": (
        table("time,index,power_w", lambda i: f"{date(i)},0,{100 + 200 * (i % 2)}"), {}, 12_000),
    "0 of DCGM for a board that could not be read": (
        table("# TYPE DCGM_FI_DEV_POWER_USAGE gauge", lambda i: [
            f"{START.timestamp() + i:.0f}",
            f'DCGM_FI_DEV_POWER_USAGE{{gpu="0"}} {power(0, i) if i % 7 else 0}']),
        {}, 6000),
    "what goes in and out of a power supply": (
        table("", lambda i: [
            f"{START.timestamp() + i:.0f}", f"PS1 Input Power  | {power(0, i):.0f} Watts | ok",
            f"PS1 Output Power | {0.9 * power(0, i):.0f} Watts | ok"]),
        {}, 6000),
    "a total of ipmitool with a name of its own": (
        table("", lambda i: [
            f"{START.timestamp() + i:.0f}", f"MB_Total_Pwr | {power(0, i):.0f} Watts | ok",
            "CPU_Power | 60 Watts | ok"]),
        {}, 6000),
    "power and energy of GPUs of several hosts": (
        table("# TYPE DCGM_FI_DEV_POWER_USAGE gauge", lambda i: [
            f"{START.timestamp() + i:.0f}",
            *(f'DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="GPU-{k}"}} {power(k, i)}' for k in (0, 1)),
            f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="GPU-0"}} {100_000 * i}']),
        {}, 18_000),
    "dmon, with pmon behind it": (
        table("#Date Time gpu pwr gtemp", lambda i: f"{date(i, '%Y%m%d %H:%M:%S')} 0 100 50")
        + table("#Date Time gpu pid type sm", lambda i:
            f"{date(i + 61, '%Y%m%d %H:%M:%S')} 0 1234 C 98"),
        {}, 6000),
    "plugs of Home Assistant with apparent power": (
        table("entity_id,state,last_changed", lambda i: [
            f"sensor.plug_{name},{value},{date(i)}Z" for name, value in (
                ("power", power(0, i)), ("apparent_power", 110), ("reactive_power", 40))]),
        {}, 6000),
    "phases of Home Assistant and their sum": (
        table("entity_id,state,last_changed", lambda i: [
            f"sensor.em_{name},{value},{date(i)}Z" for name, value in (
                ("a_power", ramp(i)), ("b_power", ramp(3 * i)),
                ("power", float(ramp(i)) + float(ramp(3 * i))))]),
        {}, sum(float(ramp(i)) + float(ramp(3 * i)) for i in range(60))),
    "CSV of a known tool that a spreadsheet saved with decimal commas": (
        table("Date;CPU Utilization;Total Power;CPU Power", lambda i:
            f"{date(i, '%Y-%m-%d %H:%M:%S')};0,5;{power(0, i)};{power(0, i)}".replace(".", ",")),
        {}, 6000),
    "input of a board that contains its rails": (
        table("", lambda i: f"{date(i, '%m-%d-%Y %H:%M:%S')} RAM 1/8MB CPU [1%@9] VDD_GPU "
            f"20000mW/1mW VIN_SYS_5V0 9000mW/1mW VIN {1000 * power(0, i):.0f}mW/1mW"),
        {}, 6000),
    "perf, with bars between its cells": (
        table("# started", lambda i: f"{i}.0|{power(0, i)}|Joules|power/energy-pkg/|1|100||"),
        {}, 6000),
    "perf, with totals below its intervals": (
        table("# time counts unit events", lambda i:
            f"{i}.0 {power(0, i)} Joules power/energy-pkg/", range(1, 61))
        + "\n 6,000.00 Joules power/energy-pkg/\n\n 60.01 seconds time elapsed\n",
        {}, 6000),
    "-0.001 for what could not be read": (
        table("time,power_w", lambda i: f"{date(i)},{power(0, i) if i % 9 else -0.001}"), {}, 6000),
    "a plug of Home Assistant that changes rarely": (
        table("entity_id,state,last_changed", lambda i: f"sensor.a_power,{power(0, i)},{date(i)}Z")
        + f"sensor.b_power,100,{date(0)}Z\nsensor.b_power,200,{date(30)}Z\n",
        {}, 6000 + 9000),
    "GPUs without an index, with steps of load in common": (
        table("timestamp, power.draw [W]", lambda i: [
            f"{date(i, '%Y/%m/%d %H:%M:%S')}.000, {power(k, i) if i > 30 else 60 + 2 * k} W"
            for k in range(3)]),
        {}, 186 * 30 + 600 * 30 + 207),
    "rows of a second, of one device": (
        table("time,power_w", lambda i: [f"{date(i)},{power(0, i) + k}" for k in range(8)]),
        {"devices": 1}, 60 * 103.5),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_log_has_its_energy(tmp_path, name):
    text, options, joules = READ[name]
    _, row = read(tmp_path, text, **options)
    assert row["gross_j"] == pytest.approx(joules, rel=0.02)


POWERJOULAR = "Date,CPU Utilization,Total Power,CPU Power,GPU Power"
REFUSED = {
    "columns of one name": (
        table(HWINFO, hwinfo), {"power_columns": ["GPU Power [W]"]},
        "has 2 columns 'GPU Power [W]'; name one by number: 4, 5"),
    "columns of one name, unnamed": (
        table(HWINFO, hwinfo), {}, "'GPU Power [W]' (column 4) and 'GPU Power [W]' (column 5)"),
    "rows of several quantities": (
        table("time,metric,value", lambda i: [
            f"{date(i)},{name},{value}"
            for name, value in (("power_w", power(0, i)), ("temp_c", 60))]),
        {"power_columns": ["value"]}, "of several quantities, as column 'metric' says"),
    "loads whose names take turns": (
        table("time,name,power_w", lambda i: f"{date(i)},{'ab'[i % 2]},{power(i % 2, i)}"),
        {}, "'name' may distinguish devices, or what ran"),
    "mean power of runs, and their time": (
        table(
            "date,run,avg_power_w,train_time_s", lambda i: f"{date(600 * i)},m,{power(0, i)},300"),
        {}, "each row is a run of its own, with its 'train_time_s'"),
    "runs with durations as clocks": (
        table("date,run,duration,power_w", lambda i: f"{date(600 * i)},m,0:05:00,{power(0, i)}"),
        {}, "each row is a run of its own, with its 'duration'"),
    "days of a spreadsheet": (
        table("time,power_w", lambda i: f"{46095.4 + i / 86400:.9f},{power(0, i)}"),
        {}, "the unit of times in column 'time' is unknown: its rows are 1.1574e-05 apart"),
    "cells separated by spaces": (
        table("time power_w", lambda i: f"{START.timestamp() + i:.0f} {power(0, i)}"),
        {}, "is no table: its lines have one cell, such as '1773480600 98.5'"),
    "JSON": (
        table("", lambda i: f'{{"time": {i}, "power_w": {power(0, i)}}}'),
        {}, "is JSON of no known tool"),
    "XML": (
        table('<?xml version="1.0" ?>', lambda _: "<power_draw>100 W</power_draw>"),
        {}, "is XML of no known tool"),
    "two plugs of one name in a loop": (
        table("", lambda i: [
            date(i), *(f'{{"id":0,"apower":{power(k, i)},"voltage":230}}' for k in range(2))]),
        {}, "several readings of apower at one time: they may be of several devices"),
    "recordings of two machines, one after the other": (
        "".join(table(POWERJOULAR, lambda i, k=k: f"{date(i)},0.5,{power(k, i)},{power(k, i)},0")
            for k in range(2)),
        {}, "time goes back by 1 min, and rows overlap: they may be of several devices"),
    "milliwatts that begin late": (
        table("time,power", lambda i: f"{date(i)},{0 if i < 300 else 25_000 + i % 7}", range(600)),
        {}, "the unit of column 'power' is unknown: its values are about 2.5e+04"),
    "power that is always 0": (
        table("timestamp, index, power.draw [W]", lambda i: f"{date(i)}, 0, 0.00 W"),
        {}, "is always 0: the tool could not measure it"),
    "a clock that was set later": (
        table("time,power_w", lambda i: f"{date(i) if i else '1970-01-01T00:00:10'},{power(0, i)}"),
        {}, "a time of the log cannot be right"),
    "a column of several units": (
        table("time,power,unit", lambda i: f"{date(i)},{power(0, i)},{'W' if i % 3 else 'kW'}"),
        {}, "rows are in kw, w, as column 'unit' says"),
    "a plug in kW": (
        table("entity_id,state,last_changed", lambda i: f"sensor.plug_power,0.0{i},{date(i)}Z"),
        {}, "the unit of sensor.plug_power is unknown: its values are about 0.0"),
    "a table of readings above one with more columns": (
        table("t_s,power_w", lambda i: f"{i},{power(0, i)}")
        + table("t_s,power_w,temperature", lambda i: f"{i + 100},{power(0, i)},50", range(500)),
        {}, "the columns change at 't_s, power_w, temperature'; split the file there"),
    "lists of lists as JSON": (
        "[[" + ",".join(f'{{"state": "{power(0, i)} W"}}' for i in SECONDS) + "]]",
        {}, "is JSON of no known tool"),
    "power in dBm": (
        table("time,power_dbm", lambda i: f"{date(i)},{45 + i % 2}"), {},
        "no column may be power or energy"),
    "power in BTU per hour": (
        table("time,power (BTU/h)", lambda i: f"{date(i)},{3.4 * power(0, i)}"), {},
        "no column may be power or energy"),
    "zones of RAPL that contain each other": (
        table("time,zone,energy_uj", lambda i: [
            f"{i},{zone},{10**10 + 10**8 * i}"
            for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0")]),
        {}, "device 'intel-rapl:0' may contain the others"),
    "packages that RAPL shows twice": (
        table("time,path,energy_uj", lambda i: [
            f"{i},/sys/class/powercap/intel-rapl{kind}:0/energy_uj,{10**10 + 10**8 * i}"
            for kind in ("", "-mmio")]),
        {}, "intel-rapl-mmio:0/energy_uj' may contain the others"),
    "plugs of Home Assistant next to their total": (
        table("entity_id,state,last_changed", lambda i: [
            f"sensor.{name}_power,{power(0, i)},{date(i)}Z" for name in ("a", "b", "total")]),
        {}, "device 'sensor.total_power' may contain the others"),
    "statistics of one power": (
        table("time,stat,power_w", lambda i: [
            f"{date(i)},{stat},{power(k, i)}" for k, stat in enumerate(("min", "mean", "max"))]),
        {}, "of several quantities, as column 'stat' says: it has 'min', 'mean', 'max'"),
    "65535 for what could not be read": (
        table("time,power_w", lambda i: f"{date(i)},{power(0, i) if i != 7 else 65535}"),
        {}, "has a value of 65.5 kW: all others are 102 W or less; remove the row"),
    "devices of a tool without times": (
        table("device,power_w", lambda i: [f"{k},{power(k, i)}" for k in range(2)]),
        {"interval_s": 1.0}, "has several devices and no times"),
    "rows that are jobs, by how long they took": (
        "JobID|Elapsed|ConsumedEnergyRaw\n1|01:00:00|360000\n2|02:00:00|720000\n3|00:30:00|90000\n",
        {}, "'Elapsed' goes back: each row may be a run of its own"),
    "messages of two plugs": (
        table("", lambda i: [
            f'tele/{k}/SENSOR {{"Time": "{date(i)}", "ENERGY": {{"Power": {power(k, i)}}}}}'
            for k in range(2)]),
        {}, "several readings of ENERGY.Power at one time: they may be of several devices"),
    "metrics of Kepler": (
        table("# TYPE kepler_node_package_joules_total counter", lambda i: [
            f"{START.timestamp() + i:.0f}", f"kepler_node_package_joules_total {100 * i}"]),
        {}, "that JouleLab knows: it has kepler_node_package_joules_total; write one as CSV"),
    "many columns of power": (
        table("time," + ",".join(f"p{k} [W]" for k in range(300)), lambda i:
            f"{i}" + f",{power(0, i)}" * 300),
        {}, "'p11 [W]' and 288 more; name one with --power-column"),
    "columns of new names, far below": (
        table("time,power_w", lambda i: f"{i},{power(0, i)}", range(500))
        + table("t,temperature", lambda i: f"{i},50", range(500, 600)),
        {}, "the columns change at 't, temperature'"),
    "another unit, far below": (
        table("time,power [W]", lambda i: f"{i},{power(0, i)}", range(500))
        + table("time,power [mW]", lambda i: f"{i},{1000 * power(0, i)}", range(500, 600)),
        {}, "the columns change at 'time, power [mW]'"),
    "rows that a buffer held back": (
        table("time,power_w", lambda i: f"{i // 5 * 5}.25,{ramp(i)}", range(300)),
        {}, "5 rows at each time that seem to follow each other"),
    "logs of two hosts that were merged": (
        table("timestamp, index, power.draw [W]", lambda i: [
            f"{date(i)}.{4 * host}, {k}, {power(2 * host + k, i)} W"
            for host in range(2) for k in range(2)]),
        {}, "rows of one device seem to be of 2 logs"),
    "a machine in the rows of its parts": (
        table("time,sensor,power_w", lambda i: [
            f"{date(i)},{name},{power(k, i)}" for k, name in enumerate(("cpu", "gpu", "system"))]),
        {}, "device 'system' may contain the others"),
    "rails of a Jetson, in rows": (
        table("time,rail,power_mw", lambda i: [
            f"{date(i)},{name},{power(k, i)}e3"
            for k, name in enumerate(("VDD_SOC", "VDD_CPU", "VDD_IN"))]),
        {}, "device 'VDD_IN' may contain the others"),
    "a limit in the rows of power": (
        table("time,sensor,power_w", lambda i: [
            f"{date(i)},gpu_power,{power(0, i)}", f"{date(i)},gpu_power_limit,400"]),
        {}, "of several quantities, as column 'sensor' says: it has 'gpu_power_limit'"),
    "power that is 0 at all times but one": (
        table("timestamp, index, power.draw [W]", lambda i: f"{date(i)}, 0, {60 * (i == 5)} W"),
        {}, "is 0 at all times but one: the tool could not measure it"),
    "65535 for all that could not be read": (
        table("time,power_w", lambda i: f"{date(i)},{power(0, i) if i % 7 else 65535}"),
        {}, "has a value of 65.5 kW: all others are 102 W or less; remove the row"),
    "instances of a GPU, each with the power of the board": (
        table("time,uuid,power_w", lambda i: [f"{date(i)},MIG-{k},{ramp(i)}" for k in (1, 2)]),
        {}, "seems to be a total: each poll has the same value for all 2 devices"),
    "GPUs that take turns without times": (
        table("power.draw [W]", lambda i: [f"{power(k, i)} W" for k in range(2)]),
        {"interval_s": 1.0}, "its rows repeat 2 levels, as if 2 devices took turns"),
    "power in tenths of watts": (
        table("time,power_dW", lambda i: f"{date(i)},{10 * power(0, i)}"), {},
        "no column may be power or energy"),
    "what is before the supplies of others": (
        table("time,device,power_w", lambda i: [
            f"{date(i)},{name},{value}" for name, value in (
                ("a", ramp(i)), ("b", ramp(3 * i)),
                ("pdu", f"{1.02 * (float(ramp(i)) + float(ramp(3 * i))):.1f}"))]),
        {}, "device 'pdu' may contain the others: its power is 1.02 times their sum"),
    "a sum of devices whose loads do not change": (
        table("time,device,power_w", lambda i: [
            f"{date(i)},{name},{value}" for name, value in (("a", 100), ("b", 200), ("x", 300))]),
        {}, "device 'x' may contain the others"),
    "a sum of columns that do not change": (
        table("time,a_w,b_w,c_w", lambda i: f"{date(i)},100,200,300"), {},
        "several columns may be power or energy"),
    "jobs, in the order of their energies": (
        "JobID|Elapsed|ConsumedEnergyRaw\n1|00:10:00|360000\n2|00:20:00|720000\n",
        {}, "each row is a run of its own, with its 'JobID'"),
    "milliseconds that may be seconds": (
        table("time,power_w", lambda i: f"{20 * i + i % 3},{power(0, i)}"), {},
        "the unit of times in column 'time' is unknown: its rows are 21 apart"),
    "minutes that may be seconds": (
        table("time,power_w", lambda i: f"{i / 60:.6f},{power(0, i)}"), {},
        "the unit of times in column 'time' is unknown: its rows are 0.016667 apart"),
    "energies of intervals with few steps": (
        table("t_s,energy_j", lambda i: f"{i},{60 if i // 20 % 2 else 250}", range(200)), {},
        "may be a counter or energy per interval"),
    "plugs that change at times of their own": (
        table("time,plug,power_w", lambda i: f"{i},{'ab'[i % 10 in (3, 4, 8)]},{ramp(i)}"),
        {}, "it is unclear whether 'plug' distinguishes devices"),
    "a history without times": (
        "entity_id,state,last_changed\nsensor.a_power,12,then\nsensor.a_power,13,now\n",
        {}, "no readable times"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_log_is_refused_in_one_line(tmp_path, name):
    text, options, words = REFUSED[name]
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_value_in_the_rows_of_all_devices_is_noted(tmp_path):
    text = table("time,rank,power_w", lambda i: [f"{date(i)},{k},{power(0, i)}" for k in range(2)])
    log, _ = read(tmp_path, text)
    assert "each poll has the same value for all 2 devices in 'power_w'" in log.notes[-1]


def test_a_log_that_may_be_of_changes_says_how_to_read_it(tmp_path):
    steps_s = [2 + 7 * i * i % 53 for i in range(40)]
    text = "t_s,power_w\n" + "".join(
        f"{sum(steps_s[:i])},{60 + 17 * i % 190}.{i}\n" for i in range(40)
    )
    log, _ = read(tmp_path, text)
    assert log.notes[-1].endswith("if rows are written on changes only, give --hold")


def test_a_whole_log_keeps_its_last_step(tmp_path):
    text = table("timestamp, index, power.draw [W]", lambda i:
        f"{date(30 * i)}, 0, {60 if i < 11 else 250} W", range(12))  # fmt: skip
    _, row = read(tmp_path, text)
    assert row["gross_j"] == pytest.approx(60 * 300 + 155 * 30, rel=0.005)


def test_zeros_of_a_meter_are_noted(tmp_path):
    log, _ = read(
        tmp_path, table("time,power_w", lambda i: f"{date(i)},{power(0, i) if i % 7 else 0}")
    )
    assert "'power_w' is 0 in 9 lines, otherwise 98.5 W or more" in log.notes[-1]


def test_spans_by_date_of_a_log_with_date_and_time_in_two_columns(tmp_path):
    log, _ = read(tmp_path, table(HWINFO, hwinfo), power_columns=["3"])
    start_s = START.timestamp()
    [row] = energy_rows(log, [ImportedSpan("", start_s + 10, start_s + 20)])
    assert row["gross_j"] == pytest.approx(1000, rel=0.02)


def test_tasks_of_one_run_are_added(tmp_path):
    header = "task_name,timestamp,project_name,run_id,duration,energy_consumed"
    text = table(header, lambda i: f"t{i},{date(100 * (i + 1))},lm,r1,100,{1e4 / 3.6e6}", range(3))
    log, _ = read(tmp_path, text)
    assert [name for name, *_ in log.runs] == ["t0", "t1", "t2"]
    rows = energy_rows(log, [ImportedSpan(*run) for run in log.runs])
    assert [row["gross_j"] for row in rows] == pytest.approx([1e4] * 3)


def emissions(*ends_s):
    rows = [f"{date(end_s)},lm,r{end_s},600,{1e5 / 3.6e6}" for end_s in ends_s]
    return "\n".join(["timestamp,project_name,run_id,duration,energy_consumed", *rows, ""])


def test_a_run_after_a_short_pause_keeps_its_energy(tmp_path):
    log, _ = read(tmp_path, emissions(600, 1300))
    rows = energy_rows(log, [ImportedSpan(*run) for run in log.runs])
    assert [row["gross_j"] for row in rows] == pytest.approx([1e5] * 2)


def test_runs_that_overlap_in_part_are_an_error(tmp_path):
    with pytest.raises(UserError, match="energy of the same time would be counted twice"):
        read(tmp_path, emissions(600, 1000))


@pytest.mark.parametrize("lost", ["[GPU requires reset]", "[N/A]"])
def test_a_gpu_whose_values_end_is_counted_until_then(tmp_path, lost):
    text = table("timestamp, index, power.draw [W]", lambda i: [
        f"{date(i)}, 0, {power(0, i)} W",
        f"{date(i)}, 1, {f'{power(1, i)} W' if i <= 30 else lost}",
    ])  # fmt: skip
    _, row = read(tmp_path, text)
    assert row["components"]["gpu:1"]["gross_j"] == pytest.approx(200 * 30.5, rel=0.02)
    assert "gpu:1: the log has readings for 31.0 s of 1 min" in row["reason"]


def test_one_of_several_gpus_that_is_always_0_is_absent(tmp_path):
    _, row = read(tmp_path, table("time,gpu,power_w", lambda i: [
        f"{date(i)},{k},{0 if k else power(0, i)}" for k in range(2)]))  # fmt: skip
    assert row["gross_j"] == pytest.approx(6000, rel=0.02)
    assert "gpu:1: log.csv has only 0 W of it in 'power_w'" in row["reason"]


def test_files_of_one_name_in_several_directories_are_several_devices(tmp_path):
    text = table("time,power_w", lambda i: f"{date(i)},{power(0, i)}")
    for node in ("node1", "node2"):
        read(tmp_path, text, f"{node}/power.csv")
    paths = [tmp_path / node / "power.csv" for node in ("node1", "node2")]
    log = read_logs(paths, LogOptions(timezone="UTC"))
    [row] = energy_rows(log, [ImportedSpan("", log.start_s, log.stop_s)])
    assert row["components"].keys() == {"node1/power:power", "node2/power:power"}
    assert row["gross_j"] == pytest.approx(12_000, rel=0.02)
    with pytest.raises(UserError, match="is given twice"):
        read_logs([paths[0], paths[0]], LogOptions(timezone="UTC"))
