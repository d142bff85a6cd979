from __future__ import annotations

import pytest

from joulelab.errors import UserError
from joulelab.workloads.torch_runtime import idle


def test_idle_sleeps_within_its_span(recorder):
    slept = []

    def sleep(seconds):
        slept.append((seconds, list(recorder.calls)))

    idle(12.5, recorder, sleep=sleep)
    assert slept == [(12.5, [("begin", "idle", {})])]
    assert recorder.calls == [("begin", "idle", {}), ("end", "idle", {})]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_idle_for_no_time_is_refused(recorder, seconds):
    with pytest.raises(UserError, match="idle"):
        idle(seconds, recorder)
    assert recorder.calls == []


def test_an_interrupted_idle_is_still_ended(recorder):
    def interrupted(_seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        idle(1, recorder, sleep=interrupted)
    assert recorder.balanced


def test_a_missing_device_is_refused(recorder):
    with pytest.raises(UserError, match="does not exist"):
        idle(1, recorder, device="cuda:99", sleep=lambda _s: None)
    assert recorder.calls == []
