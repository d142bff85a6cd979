"""``%%joulelab`` and ``%joulelab`` in Jupyter and IPython: show the energy of a cell or line."""

from __future__ import annotations

import atexit
import contextlib
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from IPython.display import display

from joulelab.errors import UserError
from joulelab.meter import Meter
from joulelab.run.options import sensor_names

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

USAGE = """\
%%joulelab [NAME] [--sensors NAMES]      measure the cell, as a span of that name
%joulelab [--sensors NAMES] STATEMENT    measure one line

The code runs unchanged. Its energy is shown below its output.

--sensors NAMES    sensors to read, for example gpu,cpu [default: all]
--help             show this text

Example:
  %joulelab --sensors gpu model.fit(data)
"""
HINT = "run %joulelab --help"


def load(shell: InteractiveShell) -> None:
    """Register ``%%joulelab`` and ``%joulelab`` in a shell."""
    cells = Cells(shell)
    shell.register_magic_function(cells.measure, magic_kind="line_cell", magic_name="joulelab")
    atexit.register(cells.close)


class Cells:
    """Measures the cells of a shell, all with the same meter."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._meter: Meter | None = None
        self._sensors: list[str] | None = None

    def measure(self, line: str, cell: str | None = None) -> None:
        """Measure a cell or a line; see :data:`USAGE`.

        The code runs unchanged and its errors are raised; its energy is displayed at its end. The
        first cell opens a meter, and later cells use it, too.
        """
        __tracebackhide__ = True
        if line.strip() in ("-h", "--help") or (cell is None and not line.strip()):
            print(USAGE)  # noqa: T201
            return
        if cell is None:
            name, (sensors, code) = "line", _statement(line)
        else:
            (name, sensors), code = _arguments(line), cell
        meter = self._open(sensors)
        with _errors_hidden(self._shell), meter.span(name) as span:
            result = self._shell.run_cell(code)
        display(span.energy)
        result.raise_error()

    def close(self) -> None:
        """Close the meter; the next cell opens another."""
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    def _open(self, sensors: list[str] | None) -> Meter:
        if self._meter is not None and (not self._meter.alive or sensors != self._sensors):
            self.close()
        if self._meter is None:
            self._meter, self._sensors = Meter(sensors=sensors, tracker=None), sensors
        return self._meter


@contextlib.contextmanager
def _errors_hidden(shell: InteractiveShell) -> Iterator[None]:
    """Do not show the cell's error here, because the magic raises it again."""
    methods = ("showtraceback", "showsyntaxerror", "showindentationerror")
    for method in methods:
        setattr(shell, method, lambda *_, **__: None)
    try:
        yield
    finally:
        for method in methods:
            delattr(shell, method)


def _arguments(line: str) -> tuple[str, list[str] | None]:
    """Parse the name of the span and the sensors."""
    name, sensors = "cell", None
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"%%joulelab {line}", why=str(error), hint=HINT) from error
    while words:
        word = words.pop(0)
        if word == "--sensors" and words:
            sensors = sensor_names(words.pop(0))
        elif word.startswith("-") or name != "cell":
            raise UserError(f"unknown option {word!r} of %%joulelab", hint=HINT)
        else:
            name = word
    return name, sensors


def _statement(line: str) -> tuple[list[str] | None, str]:
    option, _, rest = line.strip().partition(" ")
    if not option.startswith("--"):
        return None, line
    names, _, statement = rest.strip().partition(" ")
    if option != "--sensors" or not statement:
        raise UserError(f"unknown option {option!r} of %joulelab, or no statement", hint=HINT)
    return sensor_names(names), statement
