"""Waiting for a condition."""

import time


def eventually(condition, timeout_s=20.0):
    """Wait until a function returns something true, and fail if that takes too long."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition never came true"
        time.sleep(0.01)
