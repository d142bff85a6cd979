"""What a tracker gets of a run: the values of its record, under the names that are logged.

======================== ===========================================================
``joulelab/``            each epoch, at its step: ``epoch``, and every other span in it
``joulelab_total/``      the run, each component (``gpu0_``), and meters that contain
                         components (``enclosing_node_``), which are not in the total
``joulelab_spans/``      all spans of one name in the run
======================== ===========================================================

The names go on with what was measured, an underscore and a quantity with its unit, for example
``joulelab/epoch_gross_j`` and ``joulelab_total/gross_j``; ``low`` and ``high`` are the ends of 95 %
intervals. Unknown values are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

EPOCHS, TOTAL, SPANS = "joulelab/", "joulelab_total/", "joulelab_spans/"
"""Groups of names."""
LABEL = "joulelab."
"""Prefix of tags and parameters."""

Metrics = dict[str, float]


class Row(NamedTuple):
    """The values of an epoch.

    ``step`` is the attribute ``step`` of its span, which frameworks set to their global step, or
    the epoch's index.
    """

    epoch: int
    step: int
    ended_unix_s: float
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """The values of a run's record, ready to be logged."""

    id: str
    name: str
    started_unix_s: float
    ended_unix_s: float
    rows: Sequence[Row]  # The epochs, in order of time.
    totals: Metrics  # Values of the whole run, by their full names.
    labels: Mapping[str, str]  # Where the values come from, by their full names.
    record: str  # Content of ``run.json``.
    # Returns the report page, for which it may have to wait; ``None`` if there is none.
    page: Callable[[], bytes | None]

    @property
    def last_step(self) -> int:
        """Step at which the totals are logged."""
        return max((row.step for row in self.rows), default=0)

    def write_files(self, folder: Path) -> list[Path]:
        """Write the artifacts into a folder, and return them."""
        contents = {"run.json": self.record.encode(), "report.html": self.page()}
        paths = []
        for name, content in contents.items():
            if content is not None:
                paths.append(folder / name)
                paths[-1].write_bytes(content)
        return paths
