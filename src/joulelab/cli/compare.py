"""``joulelab compare``: are two sides, jobs or studies, different?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from joulelab.cli.output import progress
from joulelab.errors import UserError, nearest

if TYPE_CHECKING:
    from joulelab.compare.compare import Comparison
    from joulelab.energy.uncertainty import Metric


class Percent(click.ParamType[float]):
    """A fraction, written as ``5%`` or ``0.05``."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The fraction."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            self.fail(f"{value!r} is no percentage; give 5% or 0.05", param, ctx)
        fraction = number / 100 if text.endswith("%") else number
        if not 0 <= fraction < (10 if text.endswith("%") else 1):
            self.fail(f"{value!r} is out of range; give 5% or 0.05", param, ctx)
        return fraction


@click.command("compare")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--metric", metavar="NAME", help="What is compared, as net_j or duration_s. "
    "Default: gross_j of jobs, gross_j_per_sample of studies.")  # fmt: skip
@click.option("--by", metavar="NAME,...", help="Levels in which runs must agree to be compared, "
    "as model,batch_size. Default: those that vary within a side.")  # fmt: skip
@click.option("--span", metavar="NAME", help="Compare the spans of that name that jobs marked, "
    "as epoch: one of them, on average.")  # fmt: skip
@click.option("--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True,
    help="Of the intervals.")  # fmt: skip
@click.option("--scatter", type=Percent(), metavar="PERCENT",
    help="What runs are known to scatter by, where too few are there to tell.")  # fmt: skip
@click.option("--fail-above", "limit", type=Percent(), metavar="PERCENT",
    help="Exit 1 when B is shown to take so much more than A.")  # fmt: skip
@click.option("--each", is_flag=True,
    help="With --fail-above: of each cell, not of their mean alone.")  # fmt: skip
@click.option("--strict", is_flag=True,
    help="With --fail-above: exit 1 also when that cannot be excluded.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    a: str,
    b: str,
    metric: str | None,
    by: str | None,
    span: str | None,
    confidence: float,
    scatter: float | None,
    limit: float | None,
    each: bool,
    strict: bool,
    as_json: bool,
) -> int:
    """Is B different from A? Effect, interval, test, and in what the two are not alike.

    A and B are jobs of joulelab run, studies, folders or patterns of either (all in one are
    repeats), names of jobs, or previous, latest, and 7d: the one nearest to a week older.

    \b
    Example:
      joulelab compare previous latest
      joulelab compare 7d latest --metric duration_s
      joulelab compare previous latest --span epoch
      joulelab compare jobs/before jobs/after --fail-above 5% --strict
      joulelab compare studies/fp32 studies/bf16 --by model,phase
    """
    if (strict or each) and limit is None:
        raise click.UsageError(f"--{'strict' if strict else 'each'} needs --fail-above")
    with progress("comparing"):
        found = _compare(a, b, metric, by, span, confidence, scatter)
    above = None if limit is None else found.above(limit, each=each)
    if as_json:
        figures = found.to_json() | {"fail_above": limit, "above": above}
        click.echo(json.dumps(figures, indent=1, allow_nan=False))
    else:
        from joulelab.compare.words import verdict_of_limit  # noqa: PLC0415

        _print(found)
        if limit is not None:
            click.echo(verdict_of_limit(limit, above, each=each and bool(found.cells)))
    if limit is None:
        return 0
    return int(above is not False if strict else above is True)


def _compare(
    a: str,
    b: str,
    metric: str | None,
    by: str | None,
    span: str | None,
    confidence: float,
    scatter: float | None,
) -> Comparison:
    try:
        from joulelab.compare.compare import compare  # noqa: PLC0415
        from joulelab.compare.sides import read_side  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"comparisons need {error.name}, which is not installed; "
            "run pip install 'joulelab[study]'"
        ) from error
    from joulelab.carbon.site import Site  # noqa: PLC0415

    sides = read_side(a, "A", span), read_side(b, "B", span)
    default = "gross_j" if sides[0].kind == "jobs" else "gross_j_per_sample"
    return compare(
        *sides,
        _metric(metric or default),
        by=None if by is None else [name for name in by.split(",") if name],
        confidence=confidence,
        stated_scatter=scatter,
        site=Site.configured(),
    )


def _metric(name: str) -> Metric:
    from joulelab.energy.uncertainty import METRICS  # noqa: PLC0415

    if name not in METRICS:
        raise UserError(f"no metric {name!r}", hint=nearest(name, METRICS))
    return METRICS[name]


def _print(found: Comparison) -> None:
    from joulelab.compare.words import cell_line, lines  # noqa: PLC0415

    for line in lines(found):
        click.echo(line)
    if found.cells:
        click.echo(f"of {len(found.cells)} cells, by Holm's correction for so many:")
        for cell in found.cells:
            click.echo(cell_line(cell))
    if found.differences:
        click.echo("not alike:")
        for difference in found.differences:
            click.echo(f"  {difference.group}: {difference}")
    if found.doubts:
        click.echo("to be borne in mind:")
        for doubt in found.doubts:
            click.echo(f"  {doubt}")
