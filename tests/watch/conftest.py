import pytest
import recordings

from joulelab.watch import growing_trace, sources


class Clock:
    """Stands in for the clocks of the watcher: as late as the recording."""

    def __init__(self):
        self.elapsed_s = 0.0

    def time(self):
        return recordings.BEGIN_UNIX_S + self.elapsed_s

    def monotonic(self):
        return recordings.BEGIN_S + self.elapsed_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(sources, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def no_site(home):
    """No test of the watcher sees the user's site."""


@pytest.fixture
def no_pauses(monkeypatch):
    """Everything is computed at each poll."""
    for name in ("LEAST_RECENT_S", "LEAST_RUNNING_S"):
        monkeypatch.setattr(growing_trace, name, 0.0)
    for name in ("RECENT_SHARE", "RUNNING_SHARE"):
        monkeypatch.setattr(growing_trace, name, 1e9)
