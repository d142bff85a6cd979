"""``joulelab watch``: what is being measured, live."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from joulelab.watch.places import Place


@click.command("watch")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--epochs", type=click.IntRange(min=1), metavar="N",
    help="How many there will be, for a forecast, where the program does not say.")  # fmt: skip
@click.option("--sensors", metavar="NAMES",
    help="Without DIRECTORY: what to read, as gpu,cpu. Default: all.")  # fmt: skip
@click.option("--interval", "interval_s", type=click.FloatRange(min=0.1), default=10.0,
    show_default=True, metavar="SECONDS",
    help="Between two lines, where the output is no terminal.")  # fmt: skip
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON.")
def command(
    directory: Path | None,
    epochs: int | None,
    sensors: str | None,
    interval_s: float,
    once: bool,
    as_json: bool,
) -> None:
    """Power, energy, spans and forecast of what is being measured, live.

    DIRECTORY is a job of `joulelab run`, a study, or the directory of a Meter, under way or
    finished; it is only read. Without it this machine is watched. q ends it.

    \b
    Example:
      joulelab watch
      joulelab watch studies/mine
      joulelab watch --once --json
    """
    if as_json and not once:
        raise click.UsageError("--json prints one frame; give --once too")
    if directory is not None and sensors is not None:
        raise click.UsageError("--sensors is for this machine; a recording has its own")
    if not once:
        # Ctrl-C is how a person ends it, at any time.
        with contextlib.suppress(KeyboardInterrupt):
            _watch(directory, epochs, sensors, interval_s)
        return
    from joulelab.watch.live import look_once, print_frame  # noqa: PLC0415

    with _place(directory, epochs, sensors) as place:
        view = look_once(place)
        if as_json:
            click.echo(json.dumps(view.to_json(), indent=1, allow_nan=False))
        else:
            print_frame(view)


def _watch(
    directory: Path | None, epochs: int | None, sensors: str | None, interval_s: float
) -> None:
    from joulelab.watch.live import watch  # noqa: PLC0415

    with _place(directory, epochs, sensors) as place:
        watch(place, interval_s)


def _place(
    directory: Path | None, epochs: int | None, sensors: str | None
) -> contextlib.AbstractContextManager[Place]:
    if directory is None:
        from joulelab.watch.machine import MachinePlace  # noqa: PLC0415

        return MachinePlace(None if sensors is None else sensors.split(","))
    from joulelab.watch.places import place_of  # noqa: PLC0415

    return contextlib.nullcontext(place_of(directory, epochs=epochs))
