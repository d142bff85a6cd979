"""Experiment trackers: the energy of a run next to its loss, one module per tracker.

A tracker gets the values of the finished record, once, when its meter closes::

    Meter.close, joulelab run  ->  Tracking.finish  ->  tracked_run  ->  Tracker.log

The names of all values are in :mod:`joulelab.integrations.trackers.tracked_run`.
"""

from joulelab.integrations.trackers.tracked_run import TrackedRun
from joulelab.integrations.trackers.tracking import Tracker, log_run, start, trackers_of

__all__ = ["TrackedRun", "Tracker", "log_run", "start", "trackers_of"]
