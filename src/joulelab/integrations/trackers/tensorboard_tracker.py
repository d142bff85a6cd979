"""Log runs to TensorBoard: an event file, with the record and the report page next to it.

TensorBoard shows scalars of 32 bits, which differ from the record in the eighth digit, and not all
of its readers show others (``--load_fast=true`` does not). So each scalar is next to a tensor of 64
bits, which charts leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from joulelab.errors import UserError
from joulelab.integrations.trackers.tracked_run import TrackedRun
from joulelab.storage import make_private_directories

EXACT = "float64/"
"""Prefix of the names of the tensors that have the digits of the record."""
FOLDER = "joulelab"
"""Folder next to the event file that has the record and the page."""


class TensorboardTracker:
    """Logs into a directory of event files.

    Args:
        directory: A directory, or a function that returns that of a framework's logger.
            Default: ``runs/ID`` with the id of the run.
    """

    name, package = "TensorBoard", "tensorboard"

    def __init__(self, directory: str | Path | Callable[[], str] | None = None) -> None:
        self._directory = directory

    def attach(self) -> bool:
        """Ask the framework for its directory."""
        if callable(self._directory):
            self._directory = self._directory()
        return self._directory is not None

    def environment(self, run_id: str) -> dict[str, str]:
        """Return nothing: a directory needs no id."""
        return {}

    def log(self, tracked: TrackedRun) -> None:
        """Log a finished run."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415

        if callable(self._directory):
            raise UserError("the directory of the framework's logger is unknown")
        directory = Path(self._directory or Path("runs", tracked.id))
        writer = EventFileWriter(str(directory), filename_suffix=".joulelab")
        try:
            for row in tracked.rows:
                writer.add_event(_scalars(row.metrics, row.step, row.ended_unix_s))
            end = tracked.last_step, tracked.ended_unix_s
            writer.add_event(_scalars(tracked.totals, *end))
            writer.add_event(_text("joulelab", tracked.labels, *end))
            writer.flush()
        finally:
            writer.close()
        folder = directory / FOLDER / tracked.id
        make_private_directories(folder)
        tracked.write_files(folder)


def _scalars(values: Mapping[str, float], step: int, time_unix_s: float) -> Any:
    """Make an event of scalars, and of tensors with all their digits."""
    from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415
    from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415
    from tensorboard.compat.proto.types_pb2 import DT_DOUBLE  # noqa: PLC0415

    summary = Summary()
    for name, value in values.items():
        summary.value.add(tag=name, simple_value=value)
        exact = summary.value.add(tag=EXACT + name)
        exact.metadata.plugin_data.plugin_name = "joulelab"
        exact.tensor.dtype = DT_DOUBLE
        exact.tensor.tensor_shape.SetInParent()
        exact.tensor.double_val.append(value)
    return Event(step=step, wall_time=time_unix_s, summary=summary)


def _text(name: str, rows: Mapping[str, str], step: int, time_unix_s: float) -> Any:
    """Make an event of a table of names and texts, in Markdown."""
    from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary  # noqa: PLC0415
    from tensorboard.compat.proto.types_pb2 import DT_STRING  # noqa: PLC0415

    lines = ["| name | value |", "|---|---|"]
    lines += [f"| {key} | {text.replace('|', chr(92) + '|')} |" for key, text in rows.items()]
    summary = Summary()
    one = summary.value.add(tag=name)
    one.metadata.plugin_data.plugin_name = "text"
    one.metadata.data_class = DATA_CLASS_TENSOR
    one.tensor.dtype = DT_STRING
    one.tensor.tensor_shape.SetInParent()
    one.tensor.string_val.append("\n".join(lines).encode())
    return Event(step=step, wall_time=time_unix_s, summary=summary)
