"""End tuners in every way while they change limits: ``python -m benchmarks.faults.controls``.

A tuner borrows the power limit and the clocks of the stand-in for NVML, starts a program, and sets
levels until the program ends. The program ends by itself, or the tuner raises an exception, gets
SIGTERM, or the program, the tuner or both get SIGKILL, at a random moment, also while the tuner is
still borrowing. The power limit before is random, and neither the default nor the maximum. After
each ending it is checked that

- the power limit is the one that was found, and no clock is locked;
- another process can lock the GPU, and no state file and no guard is left;
- no value outside the constraints was ever sent to the driver.

The exit code is 1 if any check failed. Needs gcc.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import standin
from joulelab.controls import saved_state
from joulelab.controls.borrowing import borrow
from joulelab.controls.machine_controls import find_controls
from joulelab.controls.saved_state import lock_device
from joulelab.errors import ControlError
from joulelab.sensors.simulated import Waveform

ENDINGS = (
    "normal end",
    "exception",
    "SIGTERM of the tuner",
    "SIGKILL of the program",
    "SIGKILL of the tuner",
    "SIGKILL of both",
)
LONGEST_S = 0.4
"""Endings come within this time after the first change, and some within it after the start."""
STEP_S = 0.002
PATIENCE_S = 30.0
PROGRAM_S = "0.1"
DEVICE = "GPU-5a7d1e00-0000-4000-8000-000000000001"
LOWEST_W, HIGHEST_W = 200.0, 700.0
CLOCKS_MHZ = (1980, 2619)


@dataclass
class Case:
    """One ending: whether limits had been changed before, and what was found wrong."""

    ending: str
    seed: int
    changed: bool = False
    wrong: list[str] = field(default_factory=list)

    def check(self, is_right: bool, text: str) -> None:
        """Note a failed check."""
        if not is_right:
            self.wrong.append(text)


class Tuned(Exception):
    """The exception that ends a tuner."""


def tune(ending: str, seed: int, pid_file: Path) -> None:
    """Borrow the controls, start a program, and set levels until it ends."""
    draw = random.Random(seed)
    found = find_controls()
    controls = [one for one in found.controls if one.device == DEVICE]
    with borrow(controls) as borrowed:
        lasts = PROGRAM_S if ending == "normal end" else "60"
        with subprocess.Popen(["sleep", lasts]) as program:
            pid_file.write_text(str(program.pid))
            until_s = time.monotonic() + draw.uniform(0, LONGEST_S)
            while program.poll() is None:
                power_w = draw.uniform(LOWEST_W - 100, HIGHEST_W + 100)
                with suppress(ControlError):  # Some are outside the constraints.
                    borrowed.set({"power_limit": power_w})
                borrowed.set({"clock": draw.choice(controls[1].levels), "memory_clock": 1593})
                if ending == "exception" and time.monotonic() > until_s:
                    program.kill()
                    raise Tuned
                time.sleep(STEP_S)


def start_tuner(ending: str, seed: int, pid_file: Path) -> int:
    """Start a tuner, and return its pid. A fork takes less time than a new interpreter."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with suppress(Tuned):
        tune(ending, seed, pid_file)
        code = 0
    os._exit(code)


def end(ending: str, seed: int, root: Path) -> Case:
    """End one tuner in a home of its own, and return what was found."""
    case = Case(ending, seed)
    draw = random.Random(f"{ending}/{seed}")
    found_w = round(draw.uniform(LOWEST_W + 1, HIGHEST_W - 1), 3)
    root.mkdir()
    controls = standin.Controls(may_set=True, limit_w=found_w)
    waveform = standin.write(root / "waveform.txt", Waveform.constant(600), controls=controls)
    os.environ["JOULELAB_HOME"] = str(root)
    os.environ["JOULELAB_STANDIN"] = str(waveform)
    pid_file = root / "program"
    tuner = start_tuner(ending, seed, pid_file)
    if ending.startswith("SIG"):
        victims = [] if ending.endswith("program") else [tuner]
        if seed % 5 or not ending.endswith("tuner"):  # The others come while it borrows.
            wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
        if not ending.endswith("tuner"):
            victims.append(int(pid_file.read_text()))
        time.sleep(draw.uniform(0, LONGEST_S))
        for victim in victims:
            os.kill(victim, signal.Signals[ending.partition(" ")[0]])
    _, status = os.waitpid(tuner, 0)
    check(case, status, found_w, waveform, root)
    if pid_file.exists():
        with suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
    return case


def check(case: Case, status: int, found_w: float, waveform: Path, root: Path) -> None:
    """Check what an ending left."""
    code = os.waitstatus_to_exitcode(status)
    expected = {
        "normal end": 0,
        "exception": 1,
        "SIGTERM of the tuner": -signal.SIGTERM,
        "SIGKILL of the program": 0,
    }
    case.check(code == expected.get(case.ending, -signal.SIGKILL), f"exit code {code}")
    # The guard keeps the device locked until it has restored everything.
    lock_device(DEVICE, "gpu:0").release()
    changes = standin.changes(waveform)
    case.changed = any(change.limit_w != found_w for change in changes)
    if changes:
        last = changes[-1]
        case.check(last.limit_w == found_w, f"{last.limit_w} W instead of {found_w} W")
        case.check((last.clock_mhz, last.memory_mhz) == CLOCKS_MHZ, "clocks are locked")
    sent_w = [request.limit_w for request in standin.requests(waveform)]
    outside = [power_w for power_w in sent_w if not LOWEST_W <= power_w <= HIGHEST_W]
    case.check(not outside, f"limits of {outside} W were sent")
    states = list((root / "controls").glob("*.json"))
    case.check(not case.changed or not states, "a state file is left")


def guards(root: Path) -> list[int]:
    """Return the pids of the guards that still run in a directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_guard = "joulelab.controls.guard" in process.cmdline()
            if is_guard and process.environ().get("JOULELAB_HOME", "").startswith(str(root)):
                found.append(process.pid)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, not longer than :data:`PATIENCE_S`."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.01)


def table(cases: list[Case]) -> str:
    """Format the numbers of endings and of failed checks as a table of Markdown."""
    lines = [
        "| ending | times | after a change | value found restored |",
        "|---|---:|---:|---:|",
    ]
    for ending in dict.fromkeys(case.ending for case in cases):
        same = [case for case in cases if case.ending == ending]
        changed, right = sum(case.changed for case in same), sum(not case.wrong for case in same)
        lines.append(f"| {ending} | {len(same)} | {changed} | {right} |")
    return "\n".join(lines)


def run(endings: list[str], times: int, seed: int, root: Path) -> list[Case]:
    """End tuners in every way, this many times each."""
    saved_state.LOCK_WAIT_S = PATIENCE_S
    cases = []
    for i in range(times):
        for ending in endings:
            case = end(ending, seed * 1_000_000 + i, root / f"{len(cases)}")
            if case.wrong:
                print(f"{case.ending}, seed {case.seed}: {'; '.join(case.wrong)}")
            cases.append(case)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.controls", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--times", type=int, default=100, help="number of endings of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--endings", nargs="+", choices=ENDINGS, default=list(ENDINGS))
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.root is None:
        with tempfile.TemporaryDirectory(prefix="controls-") as root:
            library = standin.build(Path(root) / "library")
            environment = standin.environment(library, library / "none")
            command = [sys.executable, "-m", "benchmarks.faults.controls", *sys.argv[1:]]
            # The loader reads the path of the library when a process starts.
            done = subprocess.run([*command, "--root", root], env=environment, check=False)
        sys.exit(done.returncode)
    cases = run(options.endings, options.times, options.seed, options.root)
    wait_until(lambda: not guards(options.root))
    left = guards(options.root)
    text = table(cases)
    print(text)
    if left:
        print(f"guards are left: {left}")
    if options.out is not None:
        options.out.write_text(text + "\n")
    sys.exit(1 if left or any(case.wrong for case in cases) else 0)


if __name__ == "__main__":
    main()
