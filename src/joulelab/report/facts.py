"""Main values of a page, each with the lines that explain it."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from joulelab.carbon.costs import Costs
from joulelab.errors import JoulelabError
from joulelab.forecast.sources import read_source
from joulelab.format import interval, money_with_interval, number, quantity, scale, watt_hours
from joulelab.machine import Machine
from joulelab.uncertain import Interval

FORECAST_EPOCHS = 100


class Fact(NamedTuple):
    """A value of the first screen, and lines that explain it."""

    name: str
    value: str
    details: tuple[str, ...] = ()


def energy_fact(name: str, value_j: float, ends_j: Interval, *details: str) -> Fact:
    """Return an energy in joules, with watt-hours and its interval below."""
    ends = interval_text(value_j, ends_j)
    return Fact(name, quantity(value_j, "J"), (watt_hours(value_j), ends, *details))


def cost_facts(costs: Costs) -> list[Fact]:
    """Return carbon and money, those that are known."""
    found = []
    if math.isfinite(costs.carbon_g):
        ends = interval_text(costs.carbon_g, costs.carbon_interval_g, "g")
        found.append(Fact("CO2e", quantity(costs.carbon_g, "g"), (ends, _intensity(costs))))
    if math.isfinite(costs.price):
        text = money_with_interval(costs.price, *costs.price_interval, str(costs.currency))
        value, _, rest = text.partition(" (")
        rate = f"at {costs.price_per_kwh:g} {costs.currency}/kWh"
        pue = "" if costs.pue == 1 else f", PUE {costs.pue:g}"
        found.append(Fact("Price", value, (rest.removesuffix(")"), f"{rate}{pue}")))
    return found


def _intensity(costs: Costs) -> str:
    factor = costs.factor
    if factor is None:
        return ""
    where = f", {factor.location}" if factor.location else ""
    return f"at {number(factor.g_per_kwh)} g/kWh{where}"


def interval_text(value: float, ends: Interval, unit: str = "J") -> str:
    """Format an interval alone, on the scale of its value; empty if it is unknown."""
    if math.isnan(value):
        return ""
    size, name = scale(value, unit)
    return f"95 % CI {interval(ends[0] / size, ends[1] / size, value / size)} {name}"


def longer_training(directory: Path, phase: str | None = None) -> str:
    """Forecast a training of :data:`FORECAST_EPOCHS` epochs, and name the command that does.

    Empty if there is no forecast from this run.
    """
    command = f"joulelab forecast {shlex.quote(str(directory))} --epochs {FORECAST_EPOCHS}"
    try:
        forecast = read_source(directory, phase=phase).profile.forecast(FORECAST_EPOCHS)
    except JoulelabError:
        return ""
    return f"{forecast} (`{command}`)"


def devices_text(machine: Machine) -> str:
    """Name the devices of a machine that use its energy: GPUs, CPU and memory."""
    rows = machine.hardware_configuration()
    gpus = Counter(rows[name] for name in rows if name.startswith("GPU") and machine.gpus)
    texts = [f"{n} x {text}" if n > 1 else text for text, n in gpus.items()] or ["no GPU"]
    known = {"CPU {}": rows["CPU"], "memory {}": rows["DRAM"]}
    texts += [name.format(text) for name, text in known.items() if text != "unknown"]
    return re.sub(r" \(\w+ unknown\)", "", "; ".join(texts))
