"""``joulelab run``: its help and its options for the shell's completion.

Running is :mod:`joulelab.run.run`'s, which does not wait for click.
"""

from __future__ import annotations

import click

from joulelab.run.options import FLAGS, PHASES, TAKES_VALUE, parse
from joulelab.run.run import run

_COMMAND = click.Argument(
    ["command"], nargs=-1, required=True, metavar="COMMAND ...", type=click.Path()
)


def _options() -> list[click.Parameter]:
    kinds = {"phase": click.Choice(PHASES), "out": click.Path(), "json": click.Path()}
    values = [
        click.Option(
            [f"--{name}"],
            metavar=metavar,
            help=text,
            multiple=name == "tag",
            type=kinds.get(name, click.STRING),
        )
        for name, (metavar, text) in TAKES_VALUE.items()
    ]
    flags = [
        click.Option([f"--{name}"] + ["-q"] * (name == "quiet"), is_flag=True, help=text)
        for name, text in FLAGS.items()
    ]
    return [*values, *flags]


class _Run(click.Command):
    """Leaves its arguments as they are: their meaning is told in one place."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Shows help where it is asked for; a line that is being completed is click's."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        ctx.obj = options = parse(args)
        if options is None:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return []

    def invoke(self, ctx: click.Context) -> None:
        """Does not come back."""
        run(ctx.obj)


command = _Run(
    "run",
    context_settings={"allow_interspersed_args": False},
    params=[*_options(), _COMMAND],
    options_metavar="[OPTIONS] --",
    help="""Measure any command as it runs.

    Its arguments, environment, streams, terminal, signals and exit code are its own; what it took
    is printed on standard error when it has ended, and kept. A script that uses joulelab itself
    has its spans in the same record.

    \b
    Example:
      joulelab run -- python train.py --epochs 3
    """,
)
