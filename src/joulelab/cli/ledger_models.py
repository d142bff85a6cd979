"""``joulelab ledger inference`` and ``break-even``: what a model costs once it is used."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.carbon.costs import JOULES, quantity
from joulelab.cli.output import warn_skipped
from joulelab.cli.site_options import site_options

if TYPE_CHECKING:
    from joulelab.ledger.break_even import BreakEven
    from joulelab.uncertain import UncertainValue


@click.command("inference")
@click.option("--requests-per-day", type=click.FloatRange(min=0, min_open=True), required=True,
    metavar="N")  # fmt: skip
@click.option("--energy-per-request", "per_request", required=True, metavar="J|JOB|STUDY[:MODEL]",
    help="Joules, a job that served requests, or a study's inference a sample.")  # fmt: skip
@click.option("--training", metavar="J|JOB|STUDY[:MODEL]",
    help="Default: what the ledger has in its phase training.")  # fmt: skip
@click.option("--project", metavar="P", help="Of the ledger's training.")
@site_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inference(
    requests_per_day: float,
    per_request: str,
    training: str | None,
    project: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """What inference at a daily volume costs, and when it passes training.

    \b
    Example:
      joulelab ledger inference --requests-per-day 1e6 --energy-per-request 0.8 --training 3.6e7
      joulelab ledger inference --requests-per-day 20000 --energy-per-request studies/a:LeNet
    """
    from joulelab.carbon.site import Site  # noqa: PLC0415
    from joulelab.ledger.inference import DAYS, Inference  # noqa: PLC0415
    from joulelab.ledger.models import request_energy, training_energy  # noqa: PLC0415

    once = _trained(project, given) if training is None else training_energy(training)
    found = Inference(requests_per_day, request_energy(per_request), once)
    site = Site.configured(**given)
    if as_json:
        year = found.over("year")
        costs = site.costs(year.value, year.interval).to_json()
        click.echo(json.dumps(found.to_json() | {"costs_of_a_year": costs}, indent=1))
        return
    click.echo(f"{requests_per_day:,.12g} requests a day at {_joules(found.per_request)}")
    for period in DAYS:
        amount = found.over(period)
        costs_in_words = site.costs(amount.value, amount.interval).words()
        click.echo(f"a {period:6}{_joules(amount)}{', ' if costs_in_words else ''}"
                   f"{costs_in_words}")  # fmt: skip
    unknown = site.costs(found.over("year").value).no_carbon
    if unknown:
        click.echo(f"CO2e not known: {unknown}")
    if once is None:
        click.echo("training  not known: give --training, or tag jobs with --phase training")
    else:
        click.echo(f"training  {_joules(once)}, passed by inference {_after(found)}")


@click.command("break-even")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--requests-per-day", type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="Say in days, too.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def break_even(a: str, b: str, requests_per_day: float | None, as_json: bool) -> None:
    """After how many requests the model that is frugal at inference wins.

    A and B are each a study, or STUDY:MODEL, or TRAINING,PER_REQUEST, of which each is a figure in
    joules, a job or a study; a name may stand before it. A job says how many requests it served by
    spans named "request" or by its tag "samples". The interval is by Fieller's theorem.

    \b
    Example:
      joulelab ledger break-even small=1e6,2.0 large=3e6,1.0
      joulelab ledger break-even studies/grid:LeNet studies/grid:ResNet18 --requests-per-day 1e5
      joulelab ledger break-even jobs/train-a,jobs/serve-a jobs/train-b,jobs/serve-b
    """
    from joulelab.ledger.break_even import break_even as work_out  # noqa: PLC0415
    from joulelab.ledger.models import model_cost  # noqa: PLC0415

    found = work_out(model_cost(a), model_cost(b))
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    for model in (found.a, found.b):
        click.echo(f"{model.name}: {_joules(model.training)} for training, "
                   f"{_joules(model.per_request)} a request")  # fmt: skip
    for line in _verdict(found, requests_per_day):
        click.echo(line)


def _verdict(found: BreakEven, per_day: float | None) -> list[str]:
    lines = []
    if math.isnan(found.requests):
        lines.append("no break-even: the same model takes less however many requests there are")
    else:
        low, high = found.interval
        between = "" if math.isnan(low) else f" ({_requests(low)} to {_requests(high)})"
        days = "" if per_day is None else f", {found.requests / per_day:,.3g} days"
        lines.append(f"even after {_requests(found.requests)} requests{between}{days}")
    for begin, end, model in found.stretches():
        span = f"from {_requests(begin)} to {_requests(end)} requests"
        if math.isinf(end):
            span = f"from {_requests(begin)} requests on" if begin else "for any number of requests"
        what = "it is not shown which" if model is None else model.name
        lines.append(f"{span} {what} takes less")
    return lines


def _trained(project: str | None, given: dict[str, Any]) -> UncertainValue | None:
    """What the ledger has in its phase training; ``None`` for nothing."""
    from joulelab.ledger.ledger import read_ledger  # noqa: PLC0415

    directories: list[Path] = []
    ledger = read_ledger(directories, project=project, given=given, complain=warn_skipped)
    row = next((one for one in ledger.rows if one.key == "training"), None)
    return None if row is None or row.unmeasured == len(row.entries) else row.energy


def _after(found: Any) -> str:
    days = found.days_to_training
    if math.isinf(days.high) or math.isinf(days.low):
        return f"after {days.value:,.3g} days (its interval has no bound)"
    return f"after {days.value:,.3g} days ({days.low:,.3g} to {days.high:,.3g})"


def _joules(amount: UncertainValue) -> str:
    """A figure with its interval; a simulation is named one."""
    text = quantity(amount.value, amount.interval, JOULES)
    return f"simulated {text}" if amount.simulated else text


def _requests(count: float) -> str:
    return "infinity" if math.isinf(count) else f"{count:,.0f}"
