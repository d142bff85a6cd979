"""``joulelab``: finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

import joulelab
from joulelab.errors import JoulelabError, nearest

COMMANDS = {
    "doctor": "This machine's hardware and every sensor, present or absent",
    "models": "The models that a study can run, and their characteristics",
    "idle": "Measure this machine's idle power and keep it",
    "account": "Energy per span from logs that others recorded",
    "calibrate": "A GPU's power sensor against an external meter",
    "study": "Measure models on this machine: a plan in, a table and a report out",
    "forecast": "What a long run will take, from a short one",
    "hardware": "Profiles of devices, for predictions",
    "predict": "What a model that was never run will take",
    "rank": "Order models by predicted energy",
    "compare": "Are two jobs or studies different: effect, interval, test",
    "report": "Tables, figures and a page from one or several studies",
}
"""Name and one-line help. The module of the same name is imported when its command is used."""


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
      joulelab study quick --out mystudy  measure four models and report them
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits.

    Exit codes: 0 done, 1 it could not be done, 2 the request was wrong, 130 interrupted.
    """
    try:
        code = app.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except click.exceptions.Abort:
        _complain("interrupted")
        sys.exit(130)
    except click.ClickException as error:
        _complain(error.format_message())
        sys.exit(2)
    except JoulelabError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    click.echo(f"joulelab: {' '.join(message.split())}", err=True)
