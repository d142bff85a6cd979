"""``joulelab forecast``: what a long run will take, from a short one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.carbon.site import Site
from joulelab.cli.output import progress
from joulelab.cli.site_options import complete_country

if TYPE_CHECKING:
    from joulelab.carbon.costs import Costs
    from joulelab.forecast.learning import EpochsTo
    from joulelab.forecast.profile import Forecast
    from joulelab.forecast.sources import Source


@click.command("forecast")
@click.argument("run", metavar="RUN", type=click.Path(exists=True, path_type=Path))
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="Length of the long run.")  # fmt: skip
@click.option("--target-accuracy", "target_pct", type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT", help="Instead: as many epochs as reach this accuracy.")  # fmt: skip
@click.option("--within", type=click.FloatRange(min=0, min_open=True), metavar="FRACTION",
    help="Say whether the forecast is this sure, as 0.02.")  # fmt: skip
@click.option("--carbon-intensity", "intensity", type=click.FloatRange(min=0), metavar="G/KWH",
    help="Of the electricity, for carbon.")  # fmt: skip
@click.option("--country", metavar="COUNTRY", shell_complete=complete_country,
    help="Instead: a year's mean there; ISO 3166 code or English name.")  # fmt: skip
@click.option("--pue", type=click.FloatRange(min=1),
    help="Power usage effectiveness of the site, for carbon and money. Default: 1.")  # fmt: skip
@click.option("--price", type=float, metavar="PRICE", help="Of a kWh, with --currency.")
@click.option("--currency", metavar="CODE", help="Of the price, as EUR.")
@click.option("--phase", metavar="NAME",
    help="train or infer, where the run has both. Default: the first.")  # fmt: skip
@click.option("--steps-per-epoch", type=click.IntRange(min=1), metavar="N",
    help="Where the run's first epoch is not over.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: Path,
    epochs: float | None,
    target_pct: float | None,
    phase: str | None,
    steps_per_epoch: int | None,
    as_json: bool,
    within: float | None,
    intensity: float | None,
    price: float | None,
    **given: Any,
) -> None:
    """Energy, time, carbon and money of a longer run, with 95 % prediction intervals.

    RUN is a run of a study, the directory of a Meter, or a CSV file with the columns
    epoch,duration_s,gross_j and, where there are, phase and accuracy_pct.

    Country, intensity, PUE and price are as `joulelab site` keeps them, unless given here.

    \b
    Example:
      joulelab forecast studies/mine/runs/r0-LeNet --epochs 100
      joulelab forecast epochs.csv --epochs 100 --carbon-intensity 380 --json
      joulelab forecast epochs.csv --target-accuracy 90
    """
    if (epochs is None) == (target_pct is None):
        raise click.UsageError("give either --epochs or --target-accuracy")
    with progress("reading the run"):
        from joulelab.forecast.sources import read_source  # noqa: PLC0415

        source = read_source(run, phase=phase, steps_per_epoch=steps_per_epoch)
    site = Site.configured(intensity_g_per_kwh=intensity, price_per_kwh=price, **given)
    how = {"within": within, "pue": site.pue}
    how["carbon_intensity_g_per_kwh"] = site.factor.g_per_kwh if site.factor else None
    if epochs is not None:
        _show(source, epochs, how, site, as_json)
    elif target_pct is not None:
        _show_target(source, target_pct, how, site, as_json)


def _show(source: Source, epochs: float, how: dict[str, Any], site: Site, as_json: bool) -> None:
    from joulelab.forecast.words import details, line  # noqa: PLC0415

    forecast = source.profile.forecast(epochs, **how)
    if as_json:
        _print_json(forecast.to_json() | _costs_json(site, forecast))
        return
    click.echo(line(forecast))
    for detail in (*details(forecast), *_costs_line(site, forecast)):
        click.echo(f"  {detail}")
    if forecast.within is not None:
        click.echo(
            f"  {'sure' if forecast.sure else 'not sure'} to {100 * forecast.within:.3g} %: "
            f"it is sure to {100 * forecast.uncertainty:.3g} %, the sensors' scale left out"
        )


def _show_target(
    source: Source, target_pct: float, how: dict[str, Any], site: Site, as_json: bool
) -> None:
    from joulelab.forecast.learning import epochs_to  # noqa: PLC0415
    from joulelab.forecast.words import details, line  # noqa: PLC0415

    found = epochs_to(target_pct, source.accuracy_pct)
    if found.reason:
        if as_json:
            _print_json(_unknown(target_pct, found))
        else:
            click.echo(f"cannot say yet: {found.reason}")
        return
    forecast = source.profile.forecast_between(found.low, found.epochs, found.high, **how)
    if as_json:
        figures = forecast.to_json() | _costs_json(site, forecast)
        _print_json(_target_json(target_pct, found) | figures)
        return
    click.echo(
        f"{target_pct:g} % after {found.epochs:g} epochs ({found.low:g} to {found.high:g}); "
        f"{line(forecast)}"
    )
    for detail in (*details(forecast), *_costs_line(site, forecast)):
        click.echo(f"  {detail}")


def _costs(site: Site, forecast: Forecast) -> Costs:
    return site.costs(forecast.gross_j, (forecast.gross_low_j, forecast.gross_high_j))


def _costs_line(site: Site, forecast: Forecast) -> list[str]:
    costs = _costs(site, forecast)
    lines = [costs.words()] if costs.words() else []
    if site.intensity_file is not None:
        lines.append(f"CO2e not known: {costs.no_carbon}")
    return lines


def _costs_json(site: Site, forecast: Forecast) -> dict[str, Any]:
    """Nothing where neither carbon nor money is known."""
    costs = _costs(site, forecast)
    return costs.to_json() if costs.words() else {}


def _target_json(target_pct: float, found: EpochsTo) -> dict[str, Any]:
    return {
        "target_accuracy_pct": target_pct,
        "reason": found.reason or None,
        "epochs_low": found.low,
        "epochs_high": found.high,
    }


def _unknown(target_pct: float, found: EpochsTo) -> dict[str, Any]:
    """The same figures, none of which can be said yet."""
    figures = (
        "epochs", "gross_j", "gross_low_j", "gross_high_j", "duration_s", "duration_low_s",
        "duration_high_s", "spent_fraction",
    )  # fmt: skip
    nothing = dict.fromkeys(("epochs_low", "epochs_high", *figures))
    return _target_json(target_pct, found) | nothing


def _print_json(figures: dict[str, Any]) -> None:
    click.echo(json.dumps(figures, indent=1, allow_nan=False))
