"""Sentences about the result of a search, and how to apply it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from joulelab.format import count, interval, percent, sentence, with_interval
from joulelab.tune.knobs import DEVICE_KNOBS, plain_level, settings_text
from joulelab.tune.probes import Level, Settings
from joulelab.tune.result import Estimate, Result


def headline(result: Result) -> str:
    """Return the outcome in one sentence."""
    if result.settings == result.baseline:
        base = settings_text(result.baseline)
        return f"Keep {base}: {result.reason}."
    energy = change_text(result.saving, "saves {} of the energy", "uses {} more energy", "energy")
    time = change_text(result.slowdown, "takes {} more time", "takes {} less time", "time")
    return f"{sentence(settings_text(result.settings)).removesuffix('.')} {energy} and {time}."


def change_text(change: Estimate, positive: str, negative: str, of: str) -> str:
    """Format a relative change of a quantity with its interval, in a text for its sign.

    Example:
        >>> change_text(Estimate(-0.12, -0.14, -0.1), "takes {} more", "takes {} less", "time")
        'takes 12.0 % (95 % CI 10.0–14.0 %) less'
        >>> change_text(Estimate(0.01, -0.01, 0.03), "takes {} more", "takes {} less", "time")
        'does not change the time significantly (95 % CI of the change: -1.00 to 3.00 %)'
    """
    value, low, high = change.value, change.low, change.high
    if low <= 0 <= high and low < high:
        ends = interval(100 * low, 100 * high, 100 * value)
        return f"does not change the {of} significantly (95 % CI of the change: {ends} %)"
    if value < 0:
        value, low, high = -value, -high, -low
    text = percent(value) if low == high else with_interval(100 * value, 100 * low, 100 * high, "%")
    return (positive if change.value >= 0 else negative).format(text)


def probes_text(result: Result) -> str:
    """State how many probes there were and why the choice was made, unless the headline does."""
    probes = count(result.probes, "probe")
    return probes if result.settings == result.baseline else f"{probes}; {result.reason}"


def changed(result: Result) -> Mapping[str, Level]:
    """Return the chosen levels that differ from the baseline."""
    return {name: one for name, one in result.settings.items() if one != result.baseline[name]}


def device_commands(settings: Settings, components: Sequence[str] = ()) -> Iterator[str]:
    """Return the commands that set the limits and clocks among some settings.

    Args:
        settings: Levels, also of other knobs.
        components: The devices, for example ``"gpu:0"``. Default: all.
    """
    gpus = ",".join(one.removeprefix("gpu:") for one in components if one.startswith("gpu:"))
    chosen = f" -i {gpus}" if gpus else ""
    options = {"power_limit": "-pl {}", "clock": "-lgc 0,{}", "memory_clock": "-lmc 0,{}"}
    for name, option in options.items():
        if name in settings:
            yield f"sudo nvidia-smi{chosen} {option.format(plain_level(settings[name]))}"
    if "cpu_power_limit" in settings:
        microwatts = round(float(settings["cpu_power_limit"]) * 1e6)
        path = "/sys/class/powercap/intel-rapl:?/constraint_0_power_limit_uw"
        yield f"echo {microwatts} | sudo tee {path}"


def study_command(plan: str, settings: Settings, overrides: Sequence[str] = ()) -> str:
    """Return the command that runs a study at the settings of its program."""
    chosen = [
        f"factors.{name}={plain_level(level)}"
        for name, level in settings.items()
        if name not in DEVICE_KNOBS
    ]
    changes = {one.partition("=")[0]: one for one in (*overrides, *chosen)}
    options = (f"--set {shlex.quote(one)}" for one in changes.values())
    return " ".join(["joulelab study", shlex.quote(plan), *options])
