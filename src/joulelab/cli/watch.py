"""``joulelab watch``: show live what is being measured."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from joulelab.cli.options import complete_run
from joulelab.cli.output import print_json
from joulelab.watch.live import first_view, print_frame, watch
from joulelab.watch.sources import MachineSource, Source, open_source


@click.command("watch")
@click.argument(
    "directory", required=False, type=click.Path(path_type=Path), shell_complete=complete_run
)
@click.option("--epochs", type=click.IntRange(min=1), metavar="N",
    help="Total number of epochs, if the program does not report it.")  # fmt: skip
@click.option("--sensors", metavar="NAMES",
    help="Sensors to read without DIRECTORY, for example gpu,cpu. Default: all.")  # fmt: skip
@click.option("--interval", "interval_s", type=click.FloatRange(min=0.1), default=10.0,
    show_default=True, metavar="SECONDS",
    help="Time between two lines, if the output is not a terminal.")  # fmt: skip
@click.option("--once", is_flag=True, help="Print one frame and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON.")
def command(
    directory: Path | None,
    epochs: int | None,
    sensors: str | None,
    interval_s: float,
    once: bool,
    as_json: bool,
) -> None:
    """Show power, energy, spans and forecast live.

    DIRECTORY is a run of `joulelab run`, a study, or the directory of a Meter, running or
    finished; it is only read. It may also be the name of a saved run, or latest. Without
    DIRECTORY, this machine is watched. Press q to quit.

    \b
    Example:
      joulelab watch
      joulelab watch studies/mine
      joulelab watch --once --json
    """
    if as_json and not once:
        raise click.UsageError("--json prints one frame; add --once")
    if directory is not None and sensors is not None:
        raise click.UsageError("--sensors is only for this machine; a recording has its own")
    # Ctrl-C is a way to quit, at any time.
    with contextlib.ExitStack() as stack:
        if not once:
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        source: Source
        if directory is None:
            names = None if sensors is None else sensors.split(",")
            source = stack.enter_context(MachineSource(names))
        else:
            source = open_source(directory, epochs=epochs)
        if not once:
            watch(source, interval_s)
        elif as_json:
            print_json(first_view(source).to_json())
        else:
            print_frame(first_view(source))
