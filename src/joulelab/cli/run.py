"""``joulelab run``: its help and shell completion; running does not wait for click."""

from __future__ import annotations

import click

from joulelab.run.options import FLAGS, TAKES_VALUE
from joulelab.run.run import main
from joulelab.runs import PHASES

_COMMAND = click.Argument(
    ["command"], nargs=-1, required=True, metavar="COMMAND ...", type=click.Path()
)
_TYPES = {"phase": click.Choice(PHASES), "out": click.Path(), "json": click.Path()}


def _options() -> list[click.Parameter]:
    """Return the table of :mod:`joulelab.run.options` as click's options."""
    values = [
        click.Option(
            [f"--{name}"],
            metavar=metavar,
            help=text,
            multiple=name == "tag",
            type=_TYPES.get(name, click.STRING),
        )
        for name, (metavar, text) in TAKES_VALUE.items()
    ]
    flags = [
        click.Option([f"--{name}"] + ["-q"] * (name == "quiet"), is_flag=True, help=text)
        for name, text in FLAGS.items()
    ]
    return [*values, *flags]


class _Run(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let click only complete a line and show the help."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        main(args)  # Returns only if help was asked for.
        click.echo(ctx.get_help(), color=ctx.color)
        raise click.exceptions.Exit(0)


command = _Run(
    "run",
    context_settings={"allow_interspersed_args": False},
    params=[*_options(), _COMMAND],
    options_metavar="[OPTIONS] --",
    help="""Measure any command while it runs.

    The command gets its own arguments, environment, streams, terminal and signals, and its exit
    code is passed on. When it ends, a summary is printed on standard error and the record is saved.
    If the command itself uses joulelab, its spans are part of the same record.

    \b
    Example:
      joulelab run -- python train.py --epochs 3
    """,
)
