"""``joulelab site``: save and show where this machine's electricity comes from and its price."""

from __future__ import annotations

from typing import Any

import click

from joulelab.carbon import site as settings
from joulelab.carbon.site import Site
from joulelab.cli.options import site_options
from joulelab.cli.output import echo, print_json
from joulelab.errors import UserError
from joulelab.storage import home_note

LABELS = {
    "country": "country",
    "intensity_g_per_kwh": "intensity",
    "intensity_file": "intensity file",
    "pue": "PUE",
    "price_per_kwh": "price per kWh",
    "currency": "currency",
    "network": "network",
}


@click.command("site")
@site_options
@click.option("--reset", is_flag=True, help="Delete the saved settings.")
@click.option("--forget", is_flag=True, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(reset: bool, forget: bool, as_json: bool, **given: Any) -> None:
    """Save and show the location, price and PUE used for carbon and cost.

    JouleLab never guesses your country: set it once. Settings are saved in
    JOULELAB_HOME/site.toml. The variables JOULELAB_COUNTRY, JOULELAB_INTENSITY,
    JOULELAB_INTENSITY_FILE, JOULELAB_PUE, JOULELAB_PRICE, JOULELAB_CURRENCY and
    JOULELAB_NETWORK override them.

    \b
    Example:
      joulelab site --country DE --price 0.30 --currency EUR
      joulelab site --intensity-file grid-2026.csv --pue 1.2
      joulelab site --json
    """
    given = {name: value for name, value in given.items() if value is not None}
    if reset or forget:
        if given:
            raise UserError("--reset takes no other option", hint="save settings in a second call")
        settings.delete_site()
    if given:
        settings.save_site(**given)
        if note := home_note():
            echo(f"joulelab: {note}", err=True)
    site = Site.configured()
    if as_json:
        intensity_of = None if site.factor is None else str(site.factor)
        more = {"intensity_of": intensity_of, "kept_in": str(settings.site_file())}
        print_json(site.to_json() | more)
        return
    saved, variables = settings.saved_settings(), settings.environment_settings()
    for name, label in LABELS.items():
        value = getattr(site, name)
        if value is not None:
            origin = str(settings.site_file()) if name in saved else "default"
            origin = settings.ENVIRONMENT[name] if name in variables else origin
            text = f"{value:g}" if isinstance(value, float) else value
            echo(f"{label:15} {text}  ({origin})")
    unknown = "unknown: set --country, --intensity or --intensity-file"
    echo(f"{'carbon':15} {site.file or site.factor or unknown}")
    if site.price_per_kwh is None:
        echo(f"{'cost':15} unknown: set --price and --currency")
