"""``%%joulelab`` in Jupyter and IPython: what a cell took, below what it printed."""

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
CELL = "cell"


def load(shell: InteractiveShell) -> None:
    """Makes ``%%joulelab`` known to a shell."""
    cells = Cells(shell)
    shell.register_magic_function(cells.measure, magic_kind="cell", magic_name="joulelab")
    atexit.register(cells.close)


class Cells:
    """Measures cells, all with one meter, which is kept between them.

    Args:
        shell: That runs them.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._meter: Meter | None = None
        self._sensors: list[str] | None = None

    def measure(self, line: str, cell: str) -> None:
        """Measures a cell: ``%%joulelab [NAME] [--sensors NAMES]``.

        The cell runs as it would without, errors included; its energy is displayed when it has
        ended. A meter is opened for the first and kept for those that follow.

        Raises:
            UserError: The line says what is not understood.
            BaseException: What the cell raised.
        """
        __tracebackhide__ = True
        name, sensors = _arguments(line)
        meter = self._open(sensors)
        with _errors_shown_once(self._shell), meter.span(name) as span:
            result = self._shell.run_cell(cell)
        display(span.energy)
        result.raise_error()

    def close(self) -> None:
        """Ends the meter; the next cell opens another."""
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
def _errors_shown_once(shell: InteractiveShell) -> Iterator[None]:
    """The cell's error is shown where it leaves the magic, which fails with it, and not before."""
    names = ("showtraceback", "showsyntaxerror", "showindentationerror")
    for name in names:
        setattr(shell, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name in names:
            delattr(shell, name)


def _arguments(line: str) -> tuple[str, list[str] | None]:
    """The name of the span, and the sensors.

    Example:
        >>> _arguments("training --sensors gpu,cpu"), _arguments("")
        (('training', ['gpu', 'cpu']), ('cell', None))
    """
    name, sensors = CELL, None
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"%%joulelab {line}", why=str(error), hint=f"write {USAGE}") from error
    while words:
        word = words.pop(0)
        if word == "--sensors" and words:
            sensors = sensor_names(words.pop(0))
        elif word.startswith("-") or name != CELL:
            raise UserError(f"%%joulelab does not know {word!r}", hint=f"write {USAGE}")
        else:
            name = word
    return name, sensors
