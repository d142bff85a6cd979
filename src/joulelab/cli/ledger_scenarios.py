"""``joulelab ledger inference`` and ``break-even``: what a model costs once it is used."""

from __future__ import annotations

import math
from typing import Any

import click

from joulelab.carbon.site import Site
from joulelab.cli.options import site_options
from joulelab.cli.output import print_json, warn_skipped
from joulelab.format import number, with_interval
from joulelab.ledger.ledger import read_ledger
from joulelab.ledger.model_energy import read_model, request_energy, training_energy
from joulelab.ledger.scenarios import DAYS, BreakEven, Inference
from joulelab.ledger.scenarios import break_even as find_break_even
from joulelab.uncertain import UncertainValue, is_determined


@click.command("inference")
@click.option("--requests-per-day", type=click.FloatRange(min=0, min_open=True), required=True,
    metavar="N", help="Number of requests per day.")  # fmt: skip
@click.option("--energy-per-request", "per_request", required=True, metavar="J|RUN|STUDY[:MODEL]",
    help="Joules, a run that served requests, or a study (inference per sample).")  # fmt: skip
@click.option("--training", metavar="J|RUN|STUDY[:MODEL]",
    help="Joules, a run or a study. Default: the ledger's train phase.")  # fmt: skip
@click.option("--project", metavar="NAME", help="Project of the ledger's train phase.")
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
    """Compute the energy of inference at a daily volume, and when it exceeds training.

    \b
    Example:
      joulelab ledger inference --requests-per-day 1e6 --energy-per-request 0.8 --training 3.6e7
      joulelab ledger inference --requests-per-day 20000 --energy-per-request studies/a:LeNet
    """
    trained = training_energy(training) if training else _train_phase(project, given)
    found = Inference(requests_per_day, request_energy(per_request), trained)
    site = Site.configured(**given)
    year = found.over("year")
    year_costs = site.costs(year.value, year.interval)
    if as_json:
        print_json(found.to_json() | {"costs_of_a_year": year_costs.to_json()})
        return
    click.echo(f"{requests_per_day:,.12g} requests per day, {_joules(found.per_request)} each")
    for period in DAYS:
        energy = found.over(period)
        costs = site.costs(energy.value, energy.interval).text(origin=period == "day")
        click.echo(f"per {period:7}{_joules(energy)}{', ' if costs else ''}{costs}")
    if year_costs.no_carbon:
        click.echo(f"carbon unknown: {year_costs.no_carbon}")
    if trained is None:
        click.echo("training   unknown: give --training, or tag runs with --phase train")
        return
    days = found.days_to_training
    when = f"after {with_interval(days.value, days.low, days.high, 'days')}"
    if days.low <= 0 and math.isinf(days.high):
        when = "at a time that cannot be determined from these energies"
    click.echo(f"training   {_joules(trained)}, exceeded by inference {when}")


@click.command("break-even")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--requests-per-day", type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="Also report the break-even in days.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def break_even(a: str, b: str, requests_per_day: float | None, as_json: bool) -> None:
    """Find the number of requests after which the model that is cheaper to use wins.

    A and B are each a study, STUDY:MODEL, or TRAINING,PER_REQUEST, where each part is a number of
    joules, a run or a study; NAME= may come first. The number of requests of a run is that of its
    spans named "request" or its tag "samples". The interval is Fieller's.

    \b
    Example:
      joulelab ledger break-even small=1e6,2.0 large=3e6,1.0
      joulelab ledger break-even studies/grid:LeNet studies/grid:ResNet18 --requests-per-day 1e5
      joulelab ledger break-even runs/train-a,runs/serve-a runs/train-b,runs/serve-b
    """
    found = find_break_even(read_model(a), read_model(b))
    if as_json:
        print_json(found.to_json())
        return
    for model in (found.a, found.b):
        each = _joules(model.per_request)
        click.echo(f"{model.name}: {_joules(model.training)} for training, {each} per request")
    for line in _break_even_lines(found, requests_per_day):
        click.echo(line)


def _break_even_lines(found: BreakEven, per_day: float | None) -> list[str]:
    lines = ["no break-even: the same model uses less for any number of requests"]
    if not math.isnan(found.requests):
        low, high = found.interval
        interval = f" (95 % CI {_requests(low)} to {_requests(high)})"
        if math.isnan(low) or math.isclose(low, high):
            interval = ""
        days = "" if per_day is None else f", {number(found.requests / per_day)} days"
        lines = [f"break-even after {_requests(found.requests)} requests{interval}{days}"]
    for begin, end, model in found.ranges():
        where = f"{_requests(begin)} to {_requests(end)} requests"
        if math.isinf(end):
            where = f"more than {_requests(begin)} requests" if begin else "any number of requests"
        less = "no significant difference" if model is None else f"{model.name} uses less"
        lines.append(f"{where}: {less}")
    return lines


def _train_phase(project: str | None, given: dict[str, Any]) -> UncertainValue | None:
    """Return the energy of the ledger's train phase; ``None`` without any."""
    ledger = read_ledger([], project=project, phase="train", given=given, on_error=warn_skipped)
    return ledger.total.energy if ledger.total.is_measured else None


def _joules(energy: UncertainValue) -> str:
    text = with_interval(energy.value, *energy.interval, "J")
    if energy.uncertainty and not is_determined(energy.value, *energy.interval):
        text += ", not determined within a factor of 10: more repeats are needed"
    return f"{text}, simulated" if energy.simulated else text


def _requests(count: float) -> str:
    return "infinity" if math.isinf(count) else f"{count:,.0f}"
