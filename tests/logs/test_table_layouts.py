"""One known load in the layouts of many loggers: the right energy or an error, never another."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import read_logs
from joulelab.logs.span_energies import ImportedSpan, energy_rows

START_S = 1_772_000_000.12
TOLERANCE = 0.02
MESSAGE = "Unable to determine the device handle for GPU0000:41:00.0: GPU is lost."


def power_w(level_w, t_s):
    """Return a slow load around a level."""
    return level_w * (1 + 0.1 * np.sin(2 * np.pi * t_s / 25))


def energy_j(level_w, start_s, stop_s):
    """Return its integral."""
    omega = 2 * np.pi / 25
    waves = (math.cos(omega * start_s) - math.cos(omega * stop_s)) / omega
    return level_w * (stop_s - start_s + 0.1 * waves)


@dataclass
class Layout:
    """How a logger writes a table."""

    delimiter: str = ","
    header: bool = True
    device: str | None = "index"  # Column of devices.
    time: str = "smi"
    unit: str = "name"  # Where the unit of power is.
    quantity: str = "power"
    spacing_s: float = 0.0  # Between the rows of one poll.
    interval_s: float = 1.0
    order: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    extra: str | None = None  # One more column.
    preamble: int = 0
    units_row: bool = False
    header_every: int = 0
    footer: str = ""
    comma: bool = False  # Decimal comma.
    lost: str = ""  # What is written for the last device from half of the log on.
    shuffled: bool = False
    cut: bool = False
    polls: int = 60


NAMES = {
    "index": str,
    "uuid": lambda i: f"GPU-{i}a2b3c4d",
    "pci.bus_id": lambda i: f"00000000:{i:02X}:00.0",
    "device": lambda i: f"card{i}",
    "socket": str,
    "hostname": lambda i: f"node{i}",
    "board": lambda i: f"slot {chr(97 + i)}",
    "name": lambda _: "Example GPU",
}


def date(t_s, pattern):
    return datetime.fromtimestamp(t_s, UTC).strftime(pattern)


TIMES = {
    "smi": ("timestamp", lambda t: date(t, "%Y/%m/%d %H:%M:%S.%f")[:-3]),
    "iso": ("time", lambda t: datetime.fromtimestamp(t, UTC).isoformat(timespec="microseconds")),
    "comma": ("time", lambda t: date(t, "%Y-%m-%d %H:%M:%S,%f")),
    "epoch": ("timestamp", lambda t: f"{t:.3f}"),
    "epoch_ms": ("time", lambda t: f"{1e3 * t:.0f}"),
    "seconds": ("t_s", lambda t: f"{t - START_S:.3f}"),
    "whole": ("timestamp", lambda t: f"{t:.0f}"),
    "clock": ("time", lambda t: date(t, "%H:%M:%S.%f")),
}  # fmt: skip
EXTRAS = {
    "utilization.gpu [%]": lambda i, n: f"{90 + (i + n) % 7} %",
    "temperature.gpu": lambda i, _: f"{55 + 3 * i}",
    "memory.used [MiB]": lambda i, _: f"{20000 + i} MiB",
    "pstate": lambda i, _: f"P{i % 3}",
    "phase": lambda _, n: "train" if n // 7 % 2 else "idle",
    "load": lambda _, n: f"gpu{n // 20}",
    "step": lambda _, n: str(n),
    "comment": lambda _, n: "",
}


POWER = {  # Where the unit is: name of the column, factor, and what follows each value.
    "name": ("power.draw [W]", 1.0, ""),
    "milli": ("power_mw", 1e3, ""),
    "cells": ("power", 1.0, " W"),
    "both": ("power.draw [W]", 1.0, " W"),
    "none": ("power", 1.0, ""),
    "kilo": ("Power (kW)", 1e-3, ""),
    "other": ("GPU load", 1.0, " W"),
}
ENERGY = {"counter": "energy (J)", "interval": "energy_per_interval [J]"}


def reading(layout, device, level_w, since_s):
    """Return the cell of power or energy."""
    _, factor, suffix = POWER[layout.unit]
    if layout.quantity == "power":
        value = power_w(level_w, since_s) * factor
        text = (f"{value:.2f}" if factor >= 1 else f"{value:.6f}") + suffix
    elif layout.quantity == "counter":
        text = f"{1e6 + 1e5 * device + energy_j(level_w, 0, since_s):.3f}"
    else:
        text = f"{energy_j(level_w, since_s - layout.interval_s, since_s):.3f}"
    return text.replace(".", ",") if layout.comma else text


def lost_line(layout, time):
    """Return the cells for a lost device; ``None`` for no line."""
    return {
        "gone": None,
        "message": [MESSAGE],
        "errors": ["[Unknown Error]"] * 4,
        "value": [time, NAMES[layout.device](9) if layout.device else "", *["[GPU is lost]"] * 2],
        "device": [time, *["[N/A]"] * 3],
    }[layout.lost]


def write(layout, levels_w, rng):
    """Return the text of a log, and when its last device was lost."""
    time_name, time_text = TIMES[layout.time]
    value_name = ENERGY.get(layout.quantity) or POWER[layout.unit][0]
    names = [time_name, layout.device or "", value_name, layout.extra or ""]
    columns = [i for i in layout.order if names[i]]
    lost_s = START_S + layout.polls * layout.interval_s / 2 if layout.lost else math.inf

    def line(cells):
        return layout.delimiter.join(cells[i] for i in columns) if len(cells) > 1 else cells[0]

    lines = [f"Recorded by logger 1.2, run {i}" for i in range(layout.preamble)]
    unit = "J" if layout.quantity in ENERGY else {"milli": "mW", "kilo": "kW"}.get(layout.unit, "W")
    heading = [line(names), *([line(["", "", unit, ""])] if layout.units_row else [])]
    lines += heading if layout.header else []
    for n in range(layout.polls):
        devices = list(range(len(levels_w)))
        if layout.shuffled:
            rng.shuffle(devices)
        for k, i in enumerate(devices):
            t_s = START_S + n * layout.interval_s + k * layout.spacing_s
            cells = [
                time_text(t_s),
                NAMES[layout.device](i) if layout.device else "",
                reading(layout, i, levels_w[i], t_s - START_S),
                EXTRAS[layout.extra](i, n) if layout.extra else "",
            ]
            if i == len(levels_w) - 1 and t_s > lost_s:
                cells = lost_line(layout, cells[0])
            lines += [line(cells)] if cells else []
        if layout.header and layout.header_every and n % layout.header_every == 5:
            lines += ["", line(names)]
    lines += [layout.footer] if layout.footer else []
    text = "\n".join(lines) + "\n"
    return (text[: -rng.integers(2, 12)] if layout.cut else text), lost_s


def layouts():
    columns = st.sampled_from([None, "index", *NAMES])
    return st.builds(
        Layout,
        delimiter=st.sampled_from([",", ", ", ";", "\t"]),
        header=st.sampled_from([True, True, True, False]),
        device=columns,
        time=st.sampled_from(sorted(TIMES)),
        unit=st.sampled_from(["name", "name", "milli", "cells", "both", "none", "kilo", "other"]),
        quantity=st.sampled_from(["power", "power", "power", "counter", "interval"]),
        spacing_s=st.sampled_from([0.0, 0.0, 0.002, 0.03, 0.06]),
        interval_s=st.sampled_from([0.5, 1.0, 1.0, 2.0]),
        order=st.permutations([0, 1, 2, 3]),
        extra=st.sampled_from([None, *EXTRAS]),
        preamble=st.sampled_from([0, 0, 0, 1, 3]),
        units_row=st.sampled_from([False, False, False, True]),
        header_every=st.sampled_from([0, 0, 1, 20]),
        footer=st.sampled_from(["", "", "", "Average: 250 W", "# done", "total,,123.4"]),
        comma=st.sampled_from([False, False, False, True]),
        lost=st.sampled_from(["", "", "", "gone", "message", "errors", "value", "device"]),
        shuffled=st.sampled_from([False, False, False, True]),
        cut=st.sampled_from([False, False, False, True]),
    )


def read(path, text, start_s, stop_s):
    """Return energy in J between two times since the start of a log, or ``None``, and why."""
    path.write_text(text)
    try:
        log = read_logs([path], LogOptions(timezone="UTC"))
        span = ImportedSpan("span", log.start_s + start_s, log.start_s + stop_s)
        [row] = energy_rows(log, [span])
    except UserError as error:
        return None, str(error)
    return row["gross_j"], row["reason"] or ""


@settings(max_examples=150, deadline=None)
@given(
    layout=layouts(),
    levels_w=st.lists(st.sampled_from([35.0, 60, 150, 150, 290, 300, 650]), min_size=1, max_size=8),
    seed=st.integers(0, 9),
)
def test_any_layout_gives_the_right_energy_or_an_error(tmp_path_factory, layout, levels_w, seed):
    # Rows that are far apart and in no order are of one device as well as of several.
    is_unordered = layout.shuffled and layout.device in (None, "name")
    assume(not is_unordered or layout.spacing_s <= 0.03)
    text, lost_s = write(layout, levels_w, np.random.default_rng(seed))
    start_s = 2.0 * layout.interval_s
    stop_s = min(lost_s - START_S, (layout.polls - 1) * layout.interval_s) - start_s
    found_j, reason = read(tmp_path_factory.mktemp("layout") / "log.csv", text, start_s, stop_s)
    if found_j is None:
        assert reason
        assert "\n" not in reason
        return
    true_j = sum(energy_j(level_w, start_s, stop_s) for level_w in levels_w)
    assert abs(found_j / true_j - 1) < TOLERANCE, text[:1500]
