"""``joulelab``: finds the command, runs it, and turns errors into one line and an exit code.

``joulelab run`` is not kept waiting for what only the other commands need.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from joulelab.errors import JoulelabError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits.

    Exit codes: 0 done, 1 it could not be done, 2 the request was wrong, 130 interrupted; those of
    ``run`` are its command's.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given[:1] == ["run"]:
            _run(given[1:])
        code = _others(given)
    except JoulelabError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    sys.exit(code)


def complain(message: str) -> None:
    """Says on standard error, in one line, what is wrong."""
    if sys.stderr is not None:
        print(f"joulelab: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201


def _run(arguments: Sequence[str]) -> None:
    """Runs and measures a command and does not come back, but for a user who asks for help."""
    from joulelab.run.options import parse  # noqa: PLC0415
    from joulelab.run.run import run  # noqa: PLC0415

    options = parse(arguments)
    if options is not None:
        run(options)


def _others(arguments: Sequence[str]) -> int:
    import click  # noqa: PLC0415

    from joulelab.cli.group import app  # noqa: PLC0415

    try:
        code = app.main(args=list(arguments), prog_name="joulelab", standalone_mode=False)
    except click.exceptions.Abort:
        complain("interrupted")
        return 130
    except click.ClickException as error:
        complain(error.format_message())
        return 2
    return code if isinstance(code, int) else 0
