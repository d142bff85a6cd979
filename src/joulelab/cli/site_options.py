"""The options of a command that works out carbon or money."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any])


def complete_country(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The codes of countries that begin so, with their names."""
    from joulelab.carbon.factors import countries  # noqa: PLC0415

    return [
        CompletionItem(one.alpha2, help=one.name)
        for one in countries()
        if one.alpha2.startswith(incomplete.upper())
    ]


OPTIONS = (
    click.option("--country", metavar="COUNTRY", shell_complete=complete_country,
        help="For carbon: ISO 3166 code or English name."),
    click.option("--intensity", "intensity_g_per_kwh", type=float, metavar="G/KWH",
        help="For carbon: of the electricity, instead of the country's mean."),
    click.option("--intensity-file", metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
        help="For carbon: over time, CSV with time,g_per_kwh."),
    click.option("--pue", type=float, metavar="PUE", help="Power usage effectiveness."),
    click.option("--price", "price_per_kwh", type=float, metavar="PRICE", help="Of a kWh."),
    click.option("--currency", metavar="CODE", help="Of the price, as EUR."),
)  # fmt: skip
"""Named after the fields of :class:`joulelab.carbon.site.Site`; what is not given is ``None``."""


def site_options(command: Command) -> Command:
    """Adds the options; each comes before what ``joulelab site`` keeps."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
