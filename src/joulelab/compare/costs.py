"""What each side of a comparison costs, in carbon and money."""

from __future__ import annotations

from functools import partial

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import Site
from joulelab.compare.sides import Side
from joulelab.energy.energy import total
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_format import READINGS_FILE


def costs_of(side: Side, site: Site) -> Costs | None:
    """What the runs of a side cost altogether, all their components.

    An intensity over time needs one run: several have no one time.

    Args:
        side: The runs.
        site: Where the electricity comes from.

    Returns:
        ``None`` when nothing was measured.

    Raises:
        UserError: The file of intensities cannot be read.
    """
    runs = [run for run in side.measurements if run.energy.components]
    if not runs:
        return None
    if len(runs) > 1:
        return site.costs(total(run.energy for run in runs))
    run = runs[0]
    return site.costs(
        run.energy,
        started_unix_s=run.started_unix_s,
        stopped_unix_s=run.started_unix_s + run.energy.duration_s,
        trace=partial(read_trace, run.directory)
        if (run.directory / READINGS_FILE).exists()
        else None,
    )
