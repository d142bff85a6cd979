"""``joulelab forecast``: energy and time of a long run, from a short one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from joulelab.carbon.site import Site
from joulelab.cli.options import complete_run, site_options
from joulelab.cli.output import echo, print_json, progress
from joulelab.forecast.learning import EpochsTo, epochs_to
from joulelab.forecast.profile import Forecast
from joulelab.forecast.sources import read_source
from joulelab.format import percent

VALUES = (
    "epochs", "gross_j", "gross_low_j", "gross_high_j", "duration_s", "duration_low_s",
    "duration_high_s", "spent_fraction",
)  # fmt: skip


@click.command("forecast")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path), shell_complete=complete_run)
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="Length of the long run in epochs.")  # fmt: skip
@click.option("--target-accuracy", "target_pct", type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT", help="Forecast the epochs that reach this accuracy.")  # fmt: skip
@click.option("--within", type=click.FloatRange(min=0, min_open=True), metavar="FRACTION",
    help="Report whether the relative uncertainty is below this value, for example 0.02.",
)  # fmt: skip
@click.option("--phase", metavar="NAME",
    help="Phase to forecast, train or infer. Default: the first in the run.")  # fmt: skip
@click.option("--steps-per-epoch", type=click.IntRange(min=1), metavar="N",
    help="Needed if the first epoch of the run has not ended.")  # fmt: skip
@site_options
@click.option("--carbon-intensity", type=float, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: Path,
    epochs: float | None,
    target_pct: float | None,
    within: float | None,
    phase: str | None,
    steps_per_epoch: int | None,
    carbon_intensity: float | None,
    as_json: bool,
    **site_fields: Any,
) -> None:
    """Forecast a long run from a short one, with 95 % prediction intervals.

    RUN is the directory of a run, or a CSV file with the columns epoch,duration_s,gross_j and
    optionally phase and accuracy_pct.

    Carbon and cost use the settings of `joulelab site`, unless given here.

    \b
    Example:
      joulelab forecast studies/mine/runs/r0-LeNet --epochs 100
      joulelab forecast epochs.csv --epochs 100 --intensity 380 --json
      joulelab forecast epochs.csv --target-accuracy 90
    """
    if (epochs is None) == (target_pct is None):
        raise click.UsageError("give either --epochs or --target-accuracy")
    if carbon_intensity is not None:
        site_fields["intensity_g_per_kwh"] = carbon_intensity
    site = Site.configured(**site_fields)
    with progress("reading the run"):
        source = read_source(run, phase=phase, steps_per_epoch=steps_per_epoch)
    for caveat in source.caveats:
        echo(f"joulelab: {caveat}", err=True)
    options: dict[str, Any] = {
        "within": within,
        "pue": site.pue,
        "carbon_intensity_g_per_kwh": site.factor.g_per_kwh if site.factor else None,
    }
    if epochs is not None:
        _print(source.profile.forecast(epochs, **options), site, as_json)
        return
    assert target_pct is not None
    reached = epochs_to(target_pct, source.accuracy_pct)
    target = {
        "target_accuracy_pct": target_pct,
        "reason": reached.reason or None,
        "epochs_low": reached.low,
        "epochs_high": reached.high,
    }
    if not reached.reason:
        forecast = source.profile.forecast_between(
            reached.low, reached.epochs, reached.high, **options
        )
        _print(forecast, site, as_json, target, f"{target_pct:g} % after {_epochs(reached)}; ")
    elif as_json:
        print_json(target | dict.fromkeys(VALUES))
    else:
        echo(f"no forecast yet: {reached.reason}")


def _epochs(reached: EpochsTo) -> str:
    return f"{reached.epochs:g} epochs (95 % CI {reached.low:g}–{reached.high:g})"


def _print(
    forecast: Forecast,
    site: Site,
    as_json: bool,
    target: dict[str, Any] | None = None,
    prefix: str = "",
) -> None:
    costs = site.costs(forecast.gross_j, (forecast.gross_low_j, forecast.gross_most_j))
    text = costs.text() if forecast.is_determined else ""
    if as_json:
        print_json((target or {}) | forecast.to_json() | (costs.to_json() if costs.text() else {}))
        return
    lines = [*forecast.details(), *filter(None, [text])]
    if site.intensity_file is not None:
        lines.append(f"CO2e unknown: {costs.no_carbon}")
    if forecast.within is not None:
        verdict = "sure" if forecast.sure else "not sure"
        lines.append(
            f"{verdict} to {percent(forecast.within)}: the uncertainty is "
            f"{percent(forecast.uncertainty)}"
        )
    # Carbon is in the line of costs, with its source.
    echo(f"{prefix}{replace(forecast, carbon_intensity_g_per_kwh=None)}")
    for line in lines:
        echo(f"  {line}")
