"""``joulelab forecast``: what a long run will take, from a short one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.cli.working import working

if TYPE_CHECKING:
    from joulelab.forecast.learning import EpochsTo
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
    help="Of the electricity; without it no carbon is worked out.")  # fmt: skip
@click.option("--pue", type=click.FloatRange(min=1), default=1.0, show_default=True,
    help="Power usage effectiveness of the site, for carbon alone.")  # fmt: skip
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
    **how: Any,
) -> None:
    """Energy, time and carbon of a longer run, with 95 % prediction intervals.

    RUN is a run of a study, the directory of a Meter, or a CSV file with the columns
    epoch,duration_s,gross_j and, where there are, phase and accuracy_pct.

    \b
    Example:
      joulelab forecast studies/mine/runs/r0-LeNet --epochs 100
      joulelab forecast epochs.csv --epochs 100 --carbon-intensity 380 --json
      joulelab forecast epochs.csv --target-accuracy 90
    """
    if (epochs is None) == (target_pct is None):
        raise click.UsageError("give either --epochs or --target-accuracy")
    with working("reading the run"):
        from joulelab.forecast.sources import read_source  # noqa: PLC0415

        source = read_source(run, phase=phase, steps_per_epoch=steps_per_epoch)
    how["carbon_intensity_g_per_kwh"] = how.pop("intensity")
    if epochs is not None:
        _show(source, epochs, how, as_json)
    elif target_pct is not None:
        _show_target(source, target_pct, how, as_json)


def _show(source: Source, epochs: float, how: dict[str, Any], as_json: bool) -> None:
    from joulelab.forecast.words import details, line  # noqa: PLC0415

    forecast = source.profile.forecast(epochs, **how)
    if as_json:
        _print_json(forecast.to_json())
        return
    click.echo(line(forecast))
    for detail in details(forecast):
        click.echo(f"  {detail}")
    if forecast.within is not None:
        click.echo(
            f"  {'sure' if forecast.sure else 'not sure'} to {100 * forecast.within:.3g} %: "
            f"it is sure to {100 * forecast.uncertainty:.3g} %, the sensors' scale left out"
        )


def _show_target(source: Source, target_pct: float, how: dict[str, Any], as_json: bool) -> None:
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
        _print_json(_target_json(target_pct, found) | forecast.to_json())
        return
    click.echo(
        f"{target_pct:g} % after {found.epochs:g} epochs ({found.low:g} to {found.high:g}); "
        f"{line(forecast)}"
    )
    for detail in details(forecast):
        click.echo(f"  {detail}")


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
