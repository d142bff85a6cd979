"""``joulelab``: find the command, run it, and turn errors into one line and an exit code.

``joulelab run`` does not wait for what only the other commands need.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from joulelab.errors import JoulelabError
from joulelab.format import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 it could not be done, 2 the request was wrong, 130 interrupted; ``run``
    exits with the code of its command.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given[:1] == ["run"]:
            from joulelab.run.run import main as run  # noqa: PLC0415

            run(given[1:])  # Returns only if help was asked for.
        code = _run_with_click(given)
    except JoulelabError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    sys.exit(code)


def complain(message: str) -> None:
    """Print an error on standard error, in one line."""
    if sys.stderr is not None:
        print(f"joulelab: {printable(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201


def _run_with_click(arguments: Sequence[str]) -> int:
    import click  # noqa: PLC0415

    from joulelab.cli.group import app  # noqa: PLC0415

    try:
        code = app.main(args=list(arguments), prog_name="joulelab", standalone_mode=False)
    except click.exceptions.Abort:
        complain("interrupted")
        return 130
    except click.ClickException as error:
        # Click 8.2 and newer: a group without a command. Help has many lines.
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            click.echo(error.format_message())
            return 0
        complain(error.format_message())
        return 2
    return code if isinstance(code, int) else 0
