"""A program ``macmon`` that prints the lines of macmon 0.8, with faults that a file sets.

The fields and their order are those of its documentation (readme, "JSON example").
"""

import os
import sys

SCRIPT = """#!{python}
import json, os, sys, time
arguments = sys.argv[1:]
assert arguments[:2] == ["pipe", "-i"], arguments
period_s = int(arguments[2]) / 1000
metrics = {{
    "timestamp": "2025-02-24T20:38:15.427569+00:00",
    "temp": {{"cpu_temp_avg": 43.73614, "gpu_temp_avg": 36.95167}},
    "memory": {{"ram_total": 25769803776, "ram_usage": 20985479168}},
    "ecpu_usage": [1181, 0.082656614], "pcpu_usage": [1974, 0.015181795],
    "gpu_usage": [461, 0.021497859],
    "cpu_power": 8.0, "gpu_power": 12.0, "ane_power": 1.5, "all_power": 21.5,
    "sys_power": 40.0, "ram_power": 2.0, "gpu_ram_power": 0.5,
}}
while True:
    fault = {fault!r}
    if os.path.exists(fault):
        text = open(fault).read()
        if text == "exit":
            sys.exit(3)
        if text == "hang":
            time.sleep(600)
        if text.startswith("{{"):
            print(json.dumps(metrics | json.loads(text)), flush=True)
        else:
            print(text, flush=True)
    else:
        print(json.dumps(metrics), flush=True)
    time.sleep(period_s)
"""


class Macmon:
    """The stand-in in a directory of the search path."""

    def __init__(self, directory, monkeypatch):
        self._fault = directory / "fault"
        program = directory / "macmon"
        program.write_text(SCRIPT.format(python=sys.executable, fault=str(self._fault)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")

    def fail(self, text):
        """Print this instead, exit or hang."""
        aside = self._fault.with_suffix(".next")
        aside.write_text(text)
        aside.replace(self._fault)

    def recover(self):
        """Print as before."""
        self._fault.unlink()
