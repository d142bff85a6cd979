"""What a person is told of records that cannot be read."""

from __future__ import annotations

import click

from joulelab.errors import JoulelabError


def left_out(error: JoulelabError) -> None:
    """Tells of one that is left out, and why."""
    click.echo(f"joulelab: left out: {error}", err=True)
