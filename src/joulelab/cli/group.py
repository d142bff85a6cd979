"""The group of all commands, each imported when it is used."""

from __future__ import annotations

import importlib

import click

import joulelab
from joulelab.cli.app import COMMANDS
from joulelab.errors import nearest


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or nothing."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"joulelab.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown command names its nearest."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(joulelab.__version__, prog_name="joulelab")
def app() -> None:
    """Measure, study, forecast and reduce the energy of machine learning.

    \b
    Example:
      joulelab doctor                     what can be measured here
      joulelab run -- python train.py     what one command takes
      joulelab study quick --out mystudy  measure four models and report them
    """
