"""Runs of a script on the simulated machine, measured once for all tests of the command line."""

import os
import subprocess
import sys

SCRIPT = """
import time
import joulelab
with joulelab.Meter() as meter:
    for index in range(3):
        with meter.span("epoch", index=index):
            with meter.span("step"):
                time.sleep(0.1)
            time.sleep(0.05)
"""


def joulelab(*words, home=None, text=None, **variables):
    """Run the command as a process."""
    own = {} if home is None else {"JOULELAB_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "joulelab", *map(str, words)],
        env=os.environ | own | variables,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
