"""``joulelab site``: where this machine's electricity comes from, and what it costs."""

from __future__ import annotations

import json
from typing import Any

import click

from joulelab.carbon.site import ENVIRONMENT, Site, environment, forget, keep, site_file, stored
from joulelab.cli.site_options import site_options
from joulelab.errors import UserError

LABELS = {
    "country": "country",
    "intensity_g_per_kwh": "intensity",
    "intensity_file": "intensity file",
    "pue": "PUE",
    "price_per_kwh": "price a kWh",
    "currency": "currency",
}


@click.command("site")
@site_options
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
            raise UserError("--forget goes alone", hint="give the values in a second call")
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
