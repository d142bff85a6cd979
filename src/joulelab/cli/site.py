"""``joulelab site``: where this machine's electricity comes from, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from joulelab.errors import UserError
from joulelab.site import ENVIRONMENT, Site, environment, forget, keep, site_file, stored

LABELS = {
    "country": "country",
    "intensity_g_per_kwh": "intensity",
    "intensity_file": "intensity file",
    "pue": "PUE",
    "price_per_kwh": "price a kWh",
    "currency": "currency",
}


@click.command("site")
@click.option("--country", metavar="COUNTRY", help="ISO 3166 code or English name.")
@click.option("--intensity", "intensity_g_per_kwh", type=float, metavar="G/KWH",
    help="Of the electricity, instead of the country's mean.")  # fmt: skip
@click.option("--intensity-file", type=click.Path(exists=True, dir_okay=False, resolve_path=True,
    path_type=Path), metavar="FILE", help="Over time: CSV with time,g_per_kwh.")  # fmt: skip
@click.option("--pue", type=float, metavar="PUE", help="Power usage effectiveness. Default: 1.")
@click.option("--price", "price_per_kwh", type=float, metavar="PRICE", help="Of a kWh.")
@click.option("--currency", metavar="CODE", help="Of the price, as EUR.")
@click.option("--forget", "forgotten", is_flag=True, help="Forget what was kept.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(forgotten: bool, as_json: bool, **given: Any) -> None:
    """Keep and show the country, price and PUE that carbon and money are worked out with.

    They are kept in JOULELAB_HOME/site.toml. JOULELAB_COUNTRY, JOULELAB_INTENSITY,
    JOULELAB_INTENSITY_FILE, JOULELAB_PUE, JOULELAB_PRICE and JOULELAB_CURRENCY come before it.
    Nothing is guessed, and nothing is asked of the network.

    \b
    Example:
      joulelab site --country DE --price 0.30 --currency EUR
      joulelab site --intensity-file grid-2026.csv --pue 1.2
      joulelab site --json
    """
    given = {name: value for name, value in given.items() if value is not None}
    if forgotten:
        if given:
            raise UserError("--forget goes alone", mend="give the values in a second call")
        forget()
    if given:
        keep(**given)
    site = Site.configured()
    if as_json:
        factor = site.factor
        intensity_of = None if factor is None else str(factor)
        click.echo(
            json.dumps(site.to_json() | {"intensity_of": intensity_of, "kept_in": str(site_file())})
        )
        return
    _show(site)


def _show(site: Site) -> None:
    kept, by_variable = stored(), environment()
    for name, label in LABELS.items():
        value = getattr(site, name)
        if value is None:
            continue
        origin = "default"
        if name in by_variable:
            origin = ENVIRONMENT[name]
        elif name in kept:
            origin = str(site_file())
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        click.echo(f"{label:15} {shown}  ({origin})")
    series = site.file
    if series is not None:
        click.echo(f"carbon          {series}")
    elif site.factor is not None:
        click.echo(f"carbon          {site.factor}")
    else:
        click.echo("carbon          not known: give --country, --intensity or --intensity-file")
    if site.price_per_kwh is None:
        click.echo("money           not known: give --price and --currency")
