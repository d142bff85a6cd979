"""``joulelab ledger inference`` and ``break-even``: what a model costs once it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import click

from joulelab.carbon.site import Site
from joulelab.carbon.token_costs import token_costs
from joulelab.cli.options import site_options
from joulelab.cli.output import echo, print_json, warn_skipped
from joulelab.format import join_words, joules, number, with_interval
from joulelab.ledger.ledger import read_ledger
from joulelab.ledger.model_energy import energy_per, read_model, training_energy
from joulelab.ledger.scenarios import DAYS, BreakEven, Inference, Unit, named_after
from joulelab.ledger.scenarios import break_even as find_break_even
from joulelab.uncertain import MOST_FACTOR, Ratio, UncertainValue, is_determined


@click.command("inference")
@click.option("--requests-per-day", type=click.FloatRange(min=0, min_open=True),
    metavar="N", help="Number of requests per day.")  # fmt: skip
@click.option("--energy-per-request", "per_request", metavar="J|RUN|STUDY[:MODEL]",
    help="Joules, a run that served requests, or a study (inference per sample).")  # fmt: skip
@click.option("--tokens-per-day", type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="Number of output tokens per day, instead of requests.")  # fmt: skip
@click.option("--energy-per-token", "per_token", metavar="J|RESULT[:LEVEL]|RUN|STUDY[:MODEL]",
    help="Joules per output token, a result of joulelab llm, a run with the tag tokens, or a study "
    "(prefill and decode).")  # fmt: skip
@click.option("--training", metavar="J|RUN|STUDY[:MODEL]",
    help="Joules, a run or a study. Default: the ledger's train phase.")  # fmt: skip
@click.option("--project", metavar="NAME", help="Project of the ledger's train phase.")
@site_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inference(
    requests_per_day: float | None,
    per_request: str | None,
    tokens_per_day: float | None,
    per_token: str | None,
    training: str | None,
    project: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Compute the energy of inference at a daily volume, and when it exceeds training.

    LEVEL is a level of load of joulelab llm bench, for example 8 for concurrency 8.

    \b
    Example:
      joulelab ledger inference --requests-per-day 1e6 --energy-per-request 0.8 --training 3.6e7
      joulelab ledger inference --requests-per-day 20000 --energy-per-request studies/a:LeNet
      joulelab ledger inference --tokens-per-day 1e9 --energy-per-token bench:8 --training 3.6e9
    """
    unit: Unit = "request" if tokens_per_day is None else "token"
    per_day, each = {
        "request": (requests_per_day, per_request), "token": (tokens_per_day, per_token)
    }[unit]  # fmt: skip
    n_given = sum(one is not None for one in (requests_per_day, per_request, tokens_per_day,
        per_token))  # fmt: skip
    if per_day is None or each is None or n_given > 2:
        raise click.UsageError(
            "give --requests-per-day and --energy-per-request, or --tokens-per-day and "
            "--energy-per-token"
        )
    trained = training_energy(training) if training else _train_phase(project, given)
    found = Inference(per_day, energy_per(unit, each), trained, unit)
    site = Site.configured(**given)
    year = found.over("year")
    year_costs = site.costs(year.value, year.interval)
    per_million = None
    if unit == "token":
        per_million = token_costs(Ratio.of(found.per_request), site)
    if as_json:
        million = {} if per_million is None else per_million.to_json()
        print_json(million | found.to_json() | {"costs_of_a_year": year_costs.to_json()})
        return
    echo(f"{per_day:,.12g} {unit}s per day, {_joules(found.per_request)} each")
    for line in () if per_million is None else per_million.lines()[1:]:
        echo(line)
    for period in DAYS:
        energy = found.over(period)
        costs = site.costs(energy.value, energy.interval).text(origin=period == "day")
        echo(f"per {period:7}{_joules(energy)}{', ' if costs else ''}{costs}")
    for line in _caveats({f"energy per {unit}": found.per_request}):
        echo(line)
    if year_costs.no_carbon:
        echo(f"carbon unknown: {year_costs.no_carbon}")
    if trained is None:
        echo("training   unknown: give --training, or tag runs with --phase train")
        return
    days = found.days_to_training
    when = f"after {with_interval(days.value, days.low, days.high, 'days')}"
    if days.low <= 0 and math.isinf(days.high):
        when = "at a time that cannot be determined from these energies"
    elif unit == "token":
        tokens = found.to_training
        when += f", {_requests(tokens.value)} tokens{_interval(tokens.low, tokens.high)}"
    echo(f"training   {_joules(trained)}, exceeded by inference {when}")
    for line in _caveats({"energy of training": trained}):
        echo(line)


@click.command("break-even")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--requests-per-day", type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="Also report the break-even in days (with --per-token: tokens per day).")  # fmt: skip
@click.option("--per-token", is_flag=True, help="Count output tokens instead of requests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def break_even(
    a: str, b: str, requests_per_day: float | None, per_token: bool, as_json: bool
) -> None:
    """Find the number of requests after which the model that is cheaper to use wins.

    A and B are each a study, STUDY:MODEL, or TRAINING,PER_REQUEST, where each part is a number of
    joules, a run or a study; NAME= may come first. The number of requests of a run is that of its
    spans named "request" or its tag "samples". With --per-token, PER_REQUEST is the energy of an
    output token: joules, a result of joulelab llm, a run with the tag "tokens", or a study. The
    interval is Fieller's.

    \b
    Example:
      joulelab ledger break-even small=1e6,2.0 large=3e6,1.0
      joulelab ledger break-even studies/grid:LeNet studies/grid:ResNet18 --requests-per-day 1e5
      joulelab ledger break-even runs/train-a,runs/serve-a runs/train-b,runs/serve-b
      joulelab ledger break-even 1e9,bench-a:8 3e9,bench-b:8 --per-token
    """
    unit: Unit = "token" if per_token else "request"
    found = find_break_even(read_model(a, unit), read_model(b, unit))
    if as_json:
        print_json(named_after(unit, found.to_json()))
        return
    for model in (found.a, found.b):
        each = _joules(model.per_request)
        echo(f"{model.name}: {_joules(model.training)} for training, {each} per {unit}")
    energies = {f"{one.name} per {unit}": one.per_request for one in (found.a, found.b)}
    energies |= {f"training of {one.name}": one.training for one in (found.a, found.b)}
    for line in (*_break_even_lines(found, requests_per_day, f"{unit}s"), *_caveats(energies)):
        echo(line)


def _break_even_lines(found: BreakEven, per_day: float | None, units: str) -> list[str]:
    lines = [f"no break-even: the same model uses less for any number of {units}"]
    if not math.isnan(found.requests):
        days = "" if per_day is None else f", {number(found.requests / per_day)} days"
        interval = _interval(*found.interval)
        lines = [f"break-even after {_requests(found.requests)} {units}{interval}{days}"]
    for begin, end, model in found.ranges():
        where = f"{_requests(begin)} to {_requests(end)} {units}"
        if math.isinf(end):
            where = f"more than {_requests(begin)} {units}" if begin else f"any number of {units}"
        less = "no significant difference" if model is None else f"{model.name} uses less"
        lines.append(f"{where}: {less}")
    return lines


def _train_phase(project: str | None, given: dict[str, Any]) -> UncertainValue | None:
    """Return the energy of the ledger's train phase; ``None`` without any."""
    ledger = read_ledger([], project=project, phase="train", given=given, on_error=warn_skipped)
    return ledger.total.energy if ledger.total.is_measured else None


def _joules(energy: UncertainValue) -> str:
    text = joules(energy.value, *energy.interval)
    return f"{text}, simulated" if energy.simulated else text


def _caveats(energies: Mapping[str, UncertainValue]) -> list[str]:
    """Return a line on the energies of which hardly more than the magnitude is known, if any."""
    names = [
        name
        for name, energy in energies.items()
        if energy.uncertainty and not is_determined(energy.value, *energy.interval)
    ]
    known = f"not determined within a factor of {MOST_FACTOR:g}; more repeats are needed"
    return [f"{join_words(names)}: {known}"] if names else []


def _interval(low: float, high: float) -> str:
    """Format an interval of a number of requests; empty without one."""
    if math.isnan(low) or math.isclose(low, high):
        return ""
    return f" (95 % CI {_requests(low)} to {_requests(high)})"


def _requests(count: float) -> str:
    return "infinity" if math.isinf(count) else f"{count:,.0f}"
