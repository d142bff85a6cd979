"""Readers of logs whose layout is known: recognised by their first lines, never by their name.

:func:`read_format` is the entry. To add a tool, write a reader that yields
:class:`~joulelab.logs.formats.meters.Reading` rows and add a
:class:`~joulelab.logs.formats.meters.Format` to its module's ``FORMATS``; for a CSV a
:class:`~joulelab.logs.formats.csv_layouts.Layout` is enough.
``docs/reference/log-formats.md`` lists what is read.
"""

from __future__ import annotations

from pathlib import Path

from joulelab.logs.columns import LogOptions
from joulelab.logs.formats import (
    board_tools,
    csv_layouts,
    csv_without_times,
    gpu_tools,
    nvidia_smi,
    processor_tools,
    prometheus,
    smart_plugs,
)
from joulelab.logs.formats.log_text import LogText
from joulelab.logs.formats.meters import Format, Recording, collect

FORMATS: tuple[Format, ...] = (
    *nvidia_smi.FORMATS,
    *gpu_tools.FORMATS,
    *processor_tools.FORMATS,
    *board_tools.FORMATS,
    *prometheus.FORMATS,
    *smart_plugs.FORMATS,
    *csv_layouts.FORMATS,
    *csv_without_times.FORMATS,
)
"""In the order in which they are tried."""


def find_format(path: Path, options: LogOptions | None = None) -> Format | None:
    """Return the format of a file by its first lines; ``None`` if it is none of these."""
    head = LogText(path, LogOptions()).head()
    found = next((one for one in FORMATS if one.matches(head)), None)
    if options and options.time_column and found in csv_without_times.FORMATS:
        # It has times, and the user knows where.
        return None
    return found


def read_format(path: Path, options: LogOptions) -> Recording | None:
    """Read a log of a known format; ``None`` if it is none of these.

    Raises:
        UserError: The log has no power, no times, or is damaged.
    """
    found = find_format(path, options)
    return None if found is None else collect(LogText(path, options), found)
