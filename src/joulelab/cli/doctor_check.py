"""``joulelab doctor --check``: what can be trusted of the sensors of this machine."""

from __future__ import annotations

from joulelab.cli.output import output_console, print_json, progress, value_table
from joulelab.doctor.self_test import DURATION_S, SelfTest, run_self_test
from joulelab.format import ABSENT, duration, memory_size, percent, quantity, sentence
from joulelab.sensors.sensor import Quantity
from joulelab.uncertain import COVERAGE_FACTOR


def check(*, as_json: bool, duration_s: float = DURATION_S) -> int:
    """Test the sensors, print the result, and return the exit code."""
    with progress("testing the sensors") as on_phase:
        result = run_self_test(duration_s=duration_s, on_phase=on_phase)
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)
    return 1 if result.found.contradicts else 0


def _print(result: SelfTest) -> None:
    console = output_console()
    found = result.found
    verdicts = value_table("component", [], "What can be trusted")
    verdicts.add_column("verdict", overflow="fold")
    for one in found.components:
        verdicts.add_row(one.component, f"{one.verdict}: {one.text}")
    for name, reason in found.absent.items():
        verdicts.add_row(name, f"absent: {reason}")
    console.print(verdicts)

    power = value_table("component", ["idle", "under load"], "Power")
    for one in found.components:
        idle_w = result.idle.power_w.get(one.component)
        off_w = COVERAGE_FACTOR * result.idle.uncertainty_w.get(one.component, 0.0)
        idle = quantity(idle_w, "W")
        power.add_row(
            one.component,
            f"{idle} ± {quantity(off_w, 'W', 2)}" if off_w else idle,
            quantity(one.load_w, "W"),
        )
    console.print(power)

    headings = ["every", "step", "noise", "delay", "mean of"]
    sources = value_table("sensor", headings, "Sensors, as observed")
    for source in found.sources:
        sources.add_row(
            f"{source.component} {source.source}",
            duration(source.update_period_s),
            quantity(source.resolution, "J" if source.quantity is Quantity.ENERGY else "W", 2),
            quantity(source.noise_w, "W", 2),
            duration(source.delay_s),
            duration(source.window_s) if source.window_s else ABSENT,
        )
    console.print(sources)

    costs = result.costs
    console.print(
        f"A span costs {duration(costs.span_s)}; recording costs {percent(costs.cpu_share, 2)} of "
        f"a core, {memory_size(costs.memory_bytes)} of memory and "
        f"{quantity(costs.trace_bytes_per_h, 'B')} of disk per hour."
    )
    for kind, text in result.loads.items():
        console.print(f"Load on the {kind.upper()}: {text}.")
    if result.load_text:
        console.print(f"Other processes were busy: {result.load_text}.")
    for name in result.unknown:
        label = "the CPU" if name == "cpu" else name
        console.print(f"Whether other processes used {label} is unknown.")
    stated = {f"{one.component}: {one.text}" for one in found.components}
    for note in found.notes:
        if note not in stated:
            console.print(sentence(note))
