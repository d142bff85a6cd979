"""``joulelab tune``: find the settings that use the least energy within a slow-down."""

from __future__ import annotations

from pathlib import Path

import click

from joulelab.cli.options import Percent
from joulelab.cli.output import echo, output_console, print_json, value_table
from joulelab.errors import UserError
from joulelab.format import percent, with_interval
from joulelab.tune.level_search import OBJECTIVES, LevelSearch
from joulelab.tune.replay import ReplayTable, read_replay_table, replay
from joulelab.tune.result import Estimate, Result


@click.command("tune")
@click.option("--knobs", metavar="NAME,...", default="power-limit", show_default=True,
    help="Settings that may be changed.")  # fmt: skip
@click.option("--max-slowdown", type=Percent(), default="5%", show_default=True, metavar="PERCENT",
    help="Accepted additional time for the same work.")  # fmt: skip
@click.option("--objective", type=click.Choice(OBJECTIVES), default="energy", show_default=True,
    help="What to minimise: energy, or energy times time (edp).")  # fmt: skip
@click.option("--baseline", multiple=True, metavar="KNOB=LEVEL", help="Compare with this level of "
    "a knob. Default: the highest of a limit, the first of any other knob.")  # fmt: skip
@click.option("--replay", "table", type=click.Path(dir_okay=False, path_type=Path), metavar="TABLE",
    help="Search a recorded table instead of measuring: CSV with a column for each knob, "
    "duration_s, and energy_j or power_w, per unit of work.")  # fmt: skip
@click.option("--noise", type=Percent(), default="0%", show_default=True, metavar="PERCENT",
    help="With --replay: relative standard deviation of a measured time and energy.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Seed of all random choices.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    knobs: str,
    max_slowdown: float,
    objective: str,
    baseline: tuple[str, ...],
    table: Path | None,
    noise: float,
    seed: int,
    as_json: bool,
) -> None:
    """Find the settings that use the least energy within a slow-down that you accept.

    \b
    Example:
      joulelab tune --replay measured.csv --knobs power_limit --max-slowdown 5%
    """
    names = [name.strip().replace("-", "_") for name in knobs.split(",")]
    levels = dict(_knob_and_level(text, names) for text in baseline)
    if table is None:
        raise click.UsageError("give --replay TABLE")
    recorded = read_replay_table(table, names, levels)
    result = replay(recorded, _search(recorded, max_slowdown, objective, seed), noise, seed)
    if as_json:
        print_json(result.to_json())
    else:
        print_result(result)


def _search(recorded: ReplayTable, max_slowdown: float, objective: str, seed: int) -> LevelSearch:
    """Create the search that fits the knobs."""
    if len(recorded.knobs) > 1:
        raise UserError("more than one knob is not supported", hint="give one with --knobs")
    return LevelSearch(recorded.knobs[0], max_slowdown, objective=objective, seed=seed)


def _knob_and_level(text: str, names: list[str]) -> tuple[str, str]:
    """Split ``KNOB=LEVEL``; the knob may be left out if there is only one."""
    name, separator, level = text.partition("=")
    if not separator and len(names) == 1:
        return names[0], text
    name = name.strip().replace("-", "_")
    if name not in names or not level:
        raise click.UsageError(f"--baseline {text!r} is not KNOB=LEVEL of a knob in --knobs")
    return name, level.strip()


def print_result(result: Result) -> None:
    """Print a result: the settings, what they save, and the front."""
    echo(f"Best settings: {_settings(result.settings)}")
    echo(f"  saves {_percent(result.saving)} of the energy of {_settings(result.baseline)}")
    echo(f"  takes {_percent(result.slowdown)} longer")
    echo(f"  {result.reason}; {result.probes} measurements")
    rows = value_table("settings", ["time (95 % CI)", "energy (95 % CI)"])
    for point in result.front:
        time_s, energy_j = point.duration_s, point.energy_j
        rows.add_row(
            _settings(point.settings),
            with_interval(time_s.value, time_s.low, time_s.high, "s", level=""),
            with_interval(energy_j.value, energy_j.low, energy_j.high, "J", level=""),
        )
    output_console().print(rows)


def _settings(settings: object) -> str:
    assert isinstance(settings, dict)
    return ", ".join(f"{name} {level}" for name, level in settings.items())


def _percent(estimate: Estimate) -> str:
    if estimate.low == estimate.high:
        return percent(estimate.value)
    return with_interval(100 * estimate.value, 100 * estimate.low, 100 * estimate.high, "%")
