"""``joulelab compare``: test whether two runs or studies differ, and by how much."""

from __future__ import annotations

from pathlib import Path

import click

from joulelab.carbon.site import Site
from joulelab.cli.options import Percent, complete_run
from joulelab.cli.output import echo, print_json, progress, write_text
from joulelab.energy.uncertainty import METRICS
from joulelab.errors import UserError, nearest, optional_packages


@click.command("compare")
@click.argument("baseline", metavar="BASELINE", shell_complete=complete_run)
@click.argument("candidate", metavar="CANDIDATE", shell_complete=complete_run)
@click.option("--metric", metavar="NAME", help="Quantity to compare, for example net_j or "
    "duration_s. Default: gross_j for runs, gross_j_per_sample for studies.")  # fmt: skip
@click.option("--by", metavar="NAME,...", help="Compare only runs that agree in these levels, for "
    "example model,batch_size. Default: all levels that vary.")  # fmt: skip
@click.option("--span", metavar="NAME", help="Compare the spans of this name, for example epoch, "
    "by their mean.")  # fmt: skip
@click.option("--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True,
    help="Coverage of the intervals.")  # fmt: skip
@click.option("--scatter", type=Percent(), metavar="PERCENT", help="Assumed run-to-run standard "
    "deviation, used if there are too few repeats.")  # fmt: skip
@click.option("--fail-above", "limit", type=Percent(), metavar="PERCENT", help="Exit with 1 if the "
    "candidate is significantly more than this above the baseline.")  # fmt: skip
@click.option("--each", is_flag=True,
    help="With --fail-above: check every cell instead of their mean.")  # fmt: skip
@click.option("--strict", is_flag=True,
    help="With --fail-above: also exit with 1 if it is undecided.")  # fmt: skip
@click.option("--markdown", metavar="FILE", help="Write Markdown for a pull request or the summary "
    "of a CI job; - prints it.",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    baseline: str,
    candidate: str,
    metric: str | None,
    by: str | None,
    span: str | None,
    confidence: float,
    scatter: float | None,
    limit: float | None,
    each: bool,
    strict: bool,
    markdown: Path | None,
    as_json: bool,
) -> int:
    """Test whether CANDIDATE differs from BASELINE, and by how much.

    Prints the effect with its interval, the test, and what else differs between the two. Each is a
    run of joulelab run, a study, a directory or pattern of either (all runs in it are repeats), the
    name of runs, latest, previous, or 7d for the run closest to a week before the latest. Of a
    study, levels may follow: STUDY:FACTOR=LEVEL,... with any factor, model or phase. Levels of one
    study are paired within its blocks and within its other factors.

    \b
    Example:
      joulelab compare previous latest
      joulelab compare 7d latest --metric duration_s
      joulelab compare previous latest --span epoch
      joulelab compare runs/before runs/after --fail-above 5% --strict
      joulelab compare runs/before runs/after --fail-above 5% --markdown comment.md
      joulelab compare studies/fp32 studies/bf16 --by model,phase
      joulelab compare mine:precision=fp32 mine:precision=bf16
      joulelab compare mine:LeNet,phase=train mine:VGG16,phase=train
    """
    if (strict or each) and limit is None:
        raise click.UsageError(f"--{'strict' if strict else 'each'} needs --fail-above")
    if metric is not None and metric not in METRICS:
        raise UserError(f"no metric {metric!r}", hint=nearest(metric, METRICS))
    with optional_packages("cannot compare", "study"):
        from joulelab.compare.compare import compare  # noqa: PLC0415
    from joulelab.compare.markdown import comparison_markdown  # noqa: PLC0415
    from joulelab.compare.measurement import BASELINE, CANDIDATE, read_group  # noqa: PLC0415
    from joulelab.compare.text import comparison_lines, limit_verdict  # noqa: PLC0415

    with progress("comparing"):
        groups = read_group(baseline, BASELINE, span), read_group(candidate, CANDIDATE, span)
        default = "gross_j" if groups[0].kind == "runs" else "gross_j_per_sample"
        found = compare(
            *groups,
            METRICS[metric or default],
            by=None if by is None else [name for name in by.split(",") if name],
            confidence=confidence,
            assumed_scatter=scatter,
            site=Site.configured(),
        )
    is_above = None if limit is None else found.is_above(limit, each=each)
    of_cells = each and bool(found.cells)
    is_printed = False
    if markdown is not None:
        text = comparison_markdown(found, limit, is_above, each=of_cells)
        is_printed = write_text(markdown, text)
    if as_json and not is_printed:
        print_json(found.to_json() | {"fail_above": limit, "above": is_above})
    elif not is_printed:
        for line in comparison_lines(found):
            echo(line)
        if limit is not None:
            echo(limit_verdict(limit, is_above, each=of_cells))
    if limit is None:
        return 0
    return int(is_above is not False if strict else is_above is True)
