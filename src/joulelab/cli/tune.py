"""``joulelab tune``: find the settings that use the least energy within a slow-down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click

from joulelab.cli.options import Percent, complete_plan
from joulelab.cli.output import echo, print_json
from joulelab.cli.tune_output import print_result
from joulelab.cli.tune_recurring import run_job
from joulelab.cli.tune_work import WorkOptions, tune_command, tune_plan
from joulelab.controls.saved_state import restore_all
from joulelab.errors import ControlError, UserError
from joulelab.format import sentence
from joulelab.tune.command_work import placeholders
from joulelab.tune.knobs import DEVICE_KNOBS, PROGRAM_KNOBS, parse_knobs
from joulelab.tune.probes import Knob, Level, Search
from joulelab.tune.replay import read_replay_table, replay
from joulelab.tune.settings_search import OBJECTIVES, TO_TARGET, search_over

USUAL_SLOWDOWN = 0.05


def _restore(context: click.Context, _: click.Parameter, is_given: bool) -> None:
    """Restore what a killed run left, and exit."""
    if not is_given:
        return
    restored = restore_all()
    for note in restored.notes:
        echo(sentence(note))
    if restored.failures:
        raise ControlError("; ".join(restored.failures))
    if not restored.notes:
        echo("Nothing was left to restore.")
    context.exit()


class _Tune(click.Command):
    """Takes what follows ``--`` as the command to tune."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the command aside, so that its options are its own."""
        end = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, args[:end])
        ctx.params["program"] = tuple(args[end + 1 :])
        return rest


@click.command(cls=_Tune, name="tune", options_metavar="[OPTIONS]")
@click.argument("plan", required=False, metavar="PLAN | -- COMMAND ...",
    shell_complete=complete_plan)  # fmt: skip
@click.option("--knobs", metavar="NAME[=LEVEL,...],...", multiple=True, help="Settings that may "
    "be changed, for example batch-size=32,64,128,precision.  [default: the factors of a plan "
    "with several levels, or batch-size,precision; power-limit for a command; the knobs in the "
    "columns of a table]")  # fmt: skip
@click.option("--max-slowdown", type=Percent(), metavar="PERCENT", help="Accepted additional time "
    "for the same work.  [default: 5%; no bound with energy-to-target]")  # fmt: skip
@click.option("--objective", type=click.Choice(OBJECTIVES), default="energy", show_default=True,
    help="What to minimise: energy, energy times time (edp), or the energy until a target is "
    "reached: of a table with the column epochs_to_target.")  # fmt: skip
@click.option("--baseline", multiple=True, metavar="KNOB=LEVEL", help="With --replay: compare with "
    "this level. Default: the highest of a limit, the first of any other knob.")  # fmt: skip
@click.option("--replay", "table", type=click.Path(dir_okay=False, path_type=Path), metavar="TABLE",
    help="Search a recorded table instead of measuring: CSV with a column for each knob, "
    "duration_s, and energy_j or power_w, per unit of work.")  # fmt: skip
@click.option("--noise", type=Percent(), default="0%", show_default=True, metavar="PERCENT",
    help="With --replay: relative standard deviation of a measured time and energy.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Change the plan, for example --set train.learning_rate=0.01.")  # fmt: skip
@click.option("--window", "window_s", type=click.FloatRange(min=0, min_open=True), default=5.0,
    show_default=True, metavar="SECONDS", help="Least time of steady work in a probe.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Write the result, the probes, a page and the recordings to a new directory.")  # fmt: skip
@click.option("--recurring", metavar="NAME", help="Run a training that recurs, with a batch size "
    "that promises the least energy by the earlier runs of this name.")  # fmt: skip
@click.option("--batch-sizes", metavar="N,...", help="With --recurring: batch sizes to choose "
    "from; the command has {batch_size} where one belongs.")  # fmt: skip
@click.option("--target", metavar="METRIC=VALUE", help="With --recurring: what a run must reach, "
    "as reported by joulelab.report_metrics; METRIC<=VALUE if less is better.  "
    "[default: exit code 0]")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all random choices.  "
    "[default: 0; random with --recurring]")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Measure the baseline, and list what would be "
    "tried. Needs no right to set limits.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--restore", is_flag=True, is_eager=True, expose_value=False, callback=_restore,
    help="Restore limits and clocks that a killed run left changed, and exit.")  # fmt: skip
def command(
    plan: str | None,
    program: tuple[str, ...],
    knobs: tuple[str, ...],
    max_slowdown: float | None,
    objective: str,
    baseline: tuple[str, ...],
    table: Path | None,
    noise: float,
    overrides: tuple[str, ...],
    window_s: float,
    out: Path | None,
    recurring: str | None,
    batch_sizes: str | None,
    target: str | None,
    seed: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Find the settings that use the least energy within a slow-down that you accept.

    PLAN is a study's plan or preset, whose training runs for some seconds at each of its settings.
    COMMAND is any program. That no settings are better is an answer: the exit code is 0.

    \b
    Example:
      joulelab tune --knobs batch-size=8,16,32,64,precision quick --set 'models=["LeNet"]'
      joulelab tune --knobs power-limit -- python train.py
      joulelab tune --replay measured.csv --knobs power-limit --max-slowdown 5%
      joulelab tune --recurring nightly --batch-sizes 32,64,128 --target accuracy=0.9 -- \\
        python train.py --batch-size {batch_size}
      joulelab tune --restore
    """
    if recurring is not None:
        if plan is not None or table is not None:
            raise click.UsageError("--recurring takes neither PLAN nor --replay")
        run_job(recurring, batch_sizes, target, program, seed, as_json=as_json)
    if batch_sizes is not None or target is not None:
        raise click.UsageError("--batch-sizes and --target belong to --recurring")
    seed = seed or 0
    if [plan is not None, bool(program), table is not None].count(True) != 1:
        raise click.UsageError("give one of PLAN, -- COMMAND ... and --replay TABLE")

    if objective == TO_TARGET and table is None:
        raise UserError("the energy to a target is unknown", hint="give a table with --replay")
    usual = math.inf if objective == TO_TARGET else USUAL_SLOWDOWN
    bound = usual if max_slowdown is None else max_slowdown

    def search(chosen: Sequence[Knob], cells: Sequence[tuple[Level, ...]] | None = None) -> Search:
        """Create the search that fits the knobs."""
        return search_over(chosen, bound, objective=objective, seed=seed, cells=cells)

    if table is not None:
        names = [name.strip().replace("-", "_") for text in knobs for name in text.split(",")]
        levels = dict(_knob_and_level(text, names) for text in baseline)
        recorded = read_replay_table(table, names, levels)
        every = {one for found in recorded.work_to_target.values() for one in found}
        if objective == TO_TARGET and every == {1.0}:
            echo("note: each row is taken as a whole run to the target", err=True)
        result = replay(recorded, search(recorded.knobs, list(recorded.rows)), noise, seed)
        if as_json:
            print_json(result.to_json())
        else:
            print_result(result, baseline=recorded.baseline_point)
        return
    if baseline or noise:
        raise UserError(
            "--baseline and --noise are for --replay",
            why="the baseline is the first level, or the limit that is set",
        )
    known = (*DEVICE_KNOBS, *PROGRAM_KNOBS, *placeholders(program))
    given = parse_knobs(knobs, known) if knobs else {}
    options = WorkOptions(given, search, bound, window_s, out, as_json, dry_run)
    if plan is not None:
        tune_plan(plan, overrides, options)
    else:
        tune_command(program, options)


def _knob_and_level(text: str, names: list[str]) -> tuple[str, str]:
    """Split ``KNOB=LEVEL``; the knob may be left out if only one is named."""
    name, separator, level = text.partition("=")
    if not separator and len(names) == 1:
        return names[0], text
    name = name.strip().replace("-", "_")
    if not level:
        raise click.UsageError(f"--baseline {text!r} is not KNOB=LEVEL")
    return name, level.strip()
