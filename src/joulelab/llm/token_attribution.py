"""Explain power over time by the tokens that a server was processing."""

from __future__ import annotations

from joulelab.energy.baseline import Baseline
from joulelab.llm.requests import RequestLog
from joulelab.llm.result import LlmResult
from joulelab.recording.trace import Trace


def attribute(requests: RequestLog, trace: Trace, baseline: Baseline | None = None) -> LlmResult:
    """Attribute the energy of a recording to the requests that a server answered.

    Args:
        requests: Requests on the clock of the trace, in seconds.
        trace: Readings of all components, before and after the requests too.
        baseline: Idle power. Default: that of the readings without a request in flight.

    Raises:
        UserError: No request, or no reading, lies in the time of the other.
    """
    raise NotImplementedError
