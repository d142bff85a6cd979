"""Wait for what other processes and threads do."""

import time

PATIENCE_S = 120.0


def wait_for(condition, *, what="", patience_s=PATIENCE_S, every_s=0.1):
    """Return the condition's value once it is true."""
    deadline_s = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"waited in vain for {what or condition}"
        time.sleep(every_s)
    return found
