"""``%%joulelab`` in Jupyter and IPython: show the energy of a cell below its output."""

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

USAGE = "%%joulelab [NAME] [--sensors NAMES]"


def load(shell: InteractiveShell) -> None:
    """Register ``%%joulelab`` in a shell."""
    cells = Cells(shell)
    shell.register_magic_function(cells.measure, magic_kind="cell", magic_name="joulelab")
    atexit.register(cells.close)


class Cells:
    """Measures the cells of a shell, all with the same meter."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._meter: Meter | None = None
        self._sensors: list[str] | None = None

    def measure(self, line: str, cell: str) -> None:
        """Measure a cell: ``%%joulelab [NAME] [--sensors NAMES]``.

        The cell runs unchanged and its errors are raised; its energy is displayed at its end. The
        first cell opens a meter, and later cells use it, too.
        """
        __tracebackhide__ = True
        name, sensors = _arguments(line)
        meter = self._open(sensors)
        with _errors_hidden(self._shell), meter.span(name) as span:
            result = self._shell.run_cell(cell)
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
            self._meter, self._sensors = Meter(sensors=sensors), sensors
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
        raise UserError(f"%%joulelab {line}", why=str(error), hint=f"write {USAGE}") from error
    while words:
        word = words.pop(0)
        if word == "--sensors" and words:
            sensors = sensor_names(words.pop(0))
        elif word.startswith("-") or name != "cell":
            raise UserError(f"unknown option {word!r} of %%joulelab", hint=f"write {USAGE}")
        else:
            name = word
    return name, sensors
