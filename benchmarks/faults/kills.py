"""Kill JouleLab and what it measures at random moments: ``python -m benchmarks.faults.kills``.

In turn the recorder, the measured program, the wrapper ``joulelab run``, and the runner, the worker
and the recorder of a study get SIGKILL, SIGTERM, or SIGSTOP for a while, at a random moment of
their life, starting included. After each one it is checked that

- the command ran to its end, unless it was the victim, and its exit code was passed on;
- its finished span is saved, or its meter states a failure;
- its record has how it ended, and states that a recorder was killed;
- what was finished has the same bytes, and traces are readable up to their last record;
- a study that is started again runs exactly what is missing, and started once more nothing;
- after the next start nothing is left behind: no process, socket, temporary or partial file;
- no traceback was printed.

Half of the signals come within the first fifth of a life. Sensors are simulated. The exit code is 1
if any check failed; Ctrl-C ends it with the table of what was done.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from joulelab.errors import JoulelabError
from joulelab.recording import connections
from joulelab.recording.trace import read_trace
from joulelab.runs.record import Run, read_run
from joulelab.runs.selection import open_runs
from joulelab.storage import is_partial

COMMAND_S = 0.6
CODE = 7
STUDY_S = 6.0
IDLE_S = 0.3
STOP_S = 0.5
PATIENCE_S = 180.0
RECORDER, WORKER = "joulelab.recording.recorder", "joulelab.study.worker"
EARLY_SHARE = 0.2
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGSTOP")
TARGETS = ("recorder", "program", "wrapper", "wrapper --wait", "runner", "worker", "study recorder")
PROGRAM = f"""
import pathlib, sys, time
pathlib.Path(sys.argv[1]).touch()
import joulelab
with joulelab.Meter() as meter, meter.span("work"):
    time.sleep({COMMAND_S})
pathlib.Path(sys.argv[2]).write_text(meter.failure)
sys.exit({CODE})
"""
PLAN = """
name = "kills"
models = ["LeNet"]
phases = ["infer"]
repeats = 1
idle_s = 0.3
[data]
name = "synthetic"
train_count = 64
test_count = 32
[factors]
batch_size = [16]
[infer]
passes = 1
"""
RUNS = {"r0-idle-before", "r0-idle-after"}
"""In a study, besides the one cell."""
REPEATED = {"r0-idle-before-2"}
"""Measured again where the runner was killed between it and its cell."""


@dataclass
class Case:
    """One kill: what was done, and what was found wrong."""

    target: str
    signal: str
    seed: int
    hit: bool = False
    wrong: list[str] = field(default_factory=list)

    def check(self, is_right: bool, text: str) -> None:
        """Note a failed check."""
        if not is_right:
            self.wrong.append(text)


class World:
    """A home, a temporary and a runtime directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home, self.temporary, self.runtime = (root / name for name in ("home", "tmp", "run"))
        for path in (self.home, self.temporary, self.runtime):
            path.mkdir(mode=0o700)
        self.environ = os.environ | {
            "JOULELAB_HOME": str(self.home),
            "JOULELAB_SENSORS": "simulated",
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "JOULELAB_KILLS": str(root),
        }

    def processes(self) -> list[psutil.Process]:
        """Return the processes that were started here and still exist."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("JOULELAB_KILLS") == str(self.root)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a Python of this environment."""
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env=self.environ,
                cwd=self.root,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def make_old(self) -> None:
        """Let what is left behind look old enough to be removed."""
        age_s = 2 * connections.STALE_AFTER_S
        for path in (*self.temporary.iterdir(), *self.runtime.rglob("*")):
            os.utime(path, (time.time() - age_s,) * 2, follow_symlinks=False)

    def left(self) -> list[str]:
        """Return the names of what is left behind."""
        files = (
            *self.temporary.glob("joulelab*"),
            *self.runtime.rglob("*.sock"),
            *(path for path in self.root.rglob("*.partial") if is_partial(path.name)),
        )
        return [str(path.relative_to(self.root)) for path in files]


@contextmanager
def world() -> Iterator[World]:
    """Provide a world; remove it and end what still runs in it."""
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    made = World(root)
    try:
        yield made
    finally:
        for process in made.processes():
            process.kill()
        shutil.rmtree(root, ignore_errors=True)


def find(started: subprocess.Popen[bytes], module: str) -> psutil.Process | None:
    """Find a descendant by the module that runs in it; the process itself for an empty name."""
    try:
        parent = psutil.Process(started.pid)
        if not module:
            return parent
        for child in parent.children(recursive=True):
            if any(module in part for part in child.cmdline()):
                return child
    except psutil.Error:
        pass
    return None


def strike(
    started: subprocess.Popen[bytes], module: str, number: signal.Signals, after_s: float
) -> bool:
    """Send a signal to a process some time after it appeared; return whether it got it."""
    while (victim := find(started, module)) is None:
        if started.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(after_s)
    try:
        victim.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(STOP_S)
            victim.send_signal(signal.SIGCONT)
            # The wrapper stops with its command, and goes on at the shell's signal.
            started.send_signal(signal.SIGCONT)
    except psutil.Error:
        return False
    return True


def moment(draw: random.Random, longest_s: float) -> float:
    """Draw a time of a life, half of the times from its beginning."""
    return draw.uniform(0, longest_s * draw.choice((EARLY_SHARE, 1.0)))


def kill_run(case: Case, draw: random.Random, place: World) -> None:
    """Kill the recorder, the program or the wrapper of ``joulelab run``."""
    number = signal.Signals[case.signal]
    program, out = place.root / "program.py", place.root / "out"
    began, done = place.root / "began", place.root / "done"
    program.write_text(PROGRAM)
    options = ["--wait"] if case.target.endswith("--wait") else []
    command = [sys.executable, str(program), str(began), str(done)]
    started = place.start("-m", "joulelab", "run", *options, "--out", str(out), "--", *command)
    module = {"recorder": RECORDER, "program": str(program)}.get(case.target, "")
    case.hit = strike(started, module, number, moment(draw, 1.5 * COMMAND_S))
    is_during = case.hit and not done.exists()
    code = started.wait(PATIENCE_S)
    wait_until(lambda: not place.processes())
    ends_command = number != signal.SIGSTOP and case.target == "program"
    ends_wrapper = number != signal.SIGSTOP and case.target.startswith("wrapper")
    passed_on = ends_wrapper and number == signal.SIGTERM
    if (ends_command or ends_wrapper) and is_during:
        case.check(code in (-number, CODE), f"exit code {code}")
    else:
        case.check(code == CODE, f"exit code {code}")
    if code == CODE or (began.exists() and not (ends_command or passed_on)):
        case.check(done.exists(), "the command did not run to its end")
    check_traces(case, place)
    if done.exists():
        is_kept = has_span(place) or bool(done.read_text())
        case.check(is_kept, "the finished span is lost in silence")
    before = {path: path.read_bytes() for path in out.glob("run.json")}
    if before:
        check_record(case, read_run(out), code, is_during=is_during)
    else:
        case.check(ends_wrapper, "there is no record")
    check_left(case, place)
    case.check(all(path.read_bytes() == data for path, data in before.items()), "a record changed")


def check_record(case: Case, run: Run, code: int, *, is_during: bool) -> None:
    """Check that the record of a command has how the command and the recorder ended."""
    if case.target.startswith("wrapper") and code == -signal.SIGKILL:
        case.check(not run.finished, f"the record of a killed wrapper is {run.status}")
        return
    case.check(run.exit_code == (code if code >= 0 else None), "the record has another exit code")
    case.check(run.signal == (-code if code < 0 else None), "the record has another signal")
    if case.target == "recorder" and is_during and case.signal != "SIGSTOP":
        texts = (*run.notes, *run.energy.notes, *run.energy.absent.values())
        is_stated = any("recorder" in text for text in texts)
        case.check(is_stated, f"the end of the recorder is not stated: {texts}")


def has_span(place: World) -> bool:
    """Report whether the program's span is in a trace."""
    for path in place.root.rglob("trace.bin"):
        with contextlib.suppress(JoulelabError):
            if any(span.name == "work" for span in read_trace(path.parent).finished_spans):
                return True
    return False


def kill_study(case: Case, draw: random.Random, place: World) -> None:
    """Kill the runner, the worker or the recorder of a study, and start it again."""
    number = signal.Signals[case.signal]
    plan, study = place.root / "plan.toml", place.root / "study"
    plan.write_text(PLAN)
    arguments = ("-m", "joulelab", "study", str(plan), "--out", str(study))
    started = place.start(*arguments)
    module = {"worker": WORKER, "study recorder": RECORDER}.get(case.target, "")
    # A recorder lives as long as one short run.
    longest_s = IDLE_S if module == RECORDER else STUDY_S
    case.hit = strike(started, module, number, moment(draw, longest_s))
    code = started.wait(PATIENCE_S)
    ends_runner = case.target == "runner" and case.hit and number != signal.SIGSTOP
    case.check(code == 0 or (ends_runner and code == -number), f"exit code {code}")
    wait_until(lambda: not place.processes())
    case.check(not place.processes(), "processes are left")
    finished = files_of(study)
    check_traces(case, place)
    code = place.start(*arguments).wait(PATIENCE_S)
    case.check(code == 0, f"exit code {code} of the second start")
    runs = [read_run(path.parent) for path in study.glob("runs/*/run.json")]
    case.check(all(run.status == "done" for run in runs), f"{[run.status for run in runs]}")
    names, cells = {run.id for run in runs}, {run.id for run in runs if "idle" not in run.id}
    again = REPEATED if case.target == "runner" else set()
    case.check(names - again == RUNS | cells and len(cells) == 1, f"runs {sorted(names)}")
    partial = study / ".partial"
    case.check(not any(partial.iterdir()), "a partial run is left")
    whole = files_of(study)
    case.check(finished.items() <= whole.items(), "a finished run changed")
    code = place.start(*arguments).wait(PATIENCE_S)
    case.check(code == 0 and files_of(study) == whole, f"exit code {code} of a start with no work")
    check_left(case, place)


def files_of(study: Path) -> dict[Path, bytes]:
    """Return the files of the finished runs of a study."""
    return {path: path.read_bytes() for path in study.glob("runs/*/*") if path.is_file()}


def wait_until(condition: Callable[[], bool], longest_s: float = 20.0) -> None:
    """Wait for a condition, not longer than this."""
    until_s = time.monotonic() + longest_s
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.02)


def check_traces(case: Case, place: World) -> None:
    """Check that every trace is readable; one without a whole header has not begun."""
    for path in place.root.rglob("trace.bin"):
        if b"\n" in path.read_bytes()[: 1 << 16]:
            try:
                read_trace(path.parent)
            except Exception as error:  # noqa: BLE001  (whatever it is, it is wrong)
                case.check(is_right=False, text=f"a trace cannot be read: {error!r}")


def check_left(case: Case, place: World) -> None:
    """Start a measurement once more, and check that nothing is left behind by the last one."""
    wait_until(lambda: not place.processes())
    for process in place.processes():
        with contextlib.suppress(psutil.Error):
            case.check(is_right=False, text=f"left: {' '.join(process.cmdline()[:5])}")
    place.make_old()
    code = place.start("-m", "joulelab", "run", "-q", "--", "true").wait(PATIENCE_S)
    case.check(code == 0, f"exit code {code} of the next start")
    wait_until(lambda: not place.processes() and not place.left())
    case.check(not place.left(), f"left: {place.left()}")
    problems: list[JoulelabError] = []
    runs = open_runs(place.home / "runs", on_error=problems.append)
    case.check(all(run.status == "done" for run in runs), "the next start is not recorded")
    case.check(not problems, f"records cannot be read: {problems}")
    log = (place.root / "log").read_text(errors="replace")
    case.check("Traceback" not in log, "a traceback was printed")


def kill(target: str, name: str, seed: int) -> Case:
    """Kill one process in a world of its own, and return what was found."""
    case = Case(target, name, seed)
    draw = random.Random(f"{target}/{name}/{seed}")
    is_study = target in ("runner", "worker", "study recorder")
    with world() as place:
        try:
            (kill_study if is_study else kill_run)(case, draw, place)
        except subprocess.TimeoutExpired:
            case.check(is_right=False, text="it hangs")
        if case.wrong:
            log = place.root / "log"
            case.wrong.append(log.read_text(errors="replace")[-400:] if log.exists() else "")
    return case


def table(cases: list[Case]) -> str:
    """Format the numbers of kills and of failed checks as a table of Markdown."""
    lines = [
        "| target | signal | signals | arrived | with a failed check |",
        "|---|---|---:|---:|---:|",
    ]
    numbers = Counter((case.target, case.signal) for case in cases)
    for (target, name), n in numbers.items():
        same = [case for case in cases if (case.target, case.signal) == (target, name)]
        hit, wrong = sum(case.hit for case in same), sum(bool(case.wrong) for case in same)
        lines.append(f"| {target} | {name} | {n} | {hit} | {wrong} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.kills", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=300, help="number of signals")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--signals", nargs="+", choices=set(SIGNALS), default=list(SIGNALS))
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    cases: list[Case] = []
    with contextlib.suppress(KeyboardInterrupt):
        for i in range(options.kills):
            target = options.targets[i % len(options.targets)]
            name = options.signals[i // len(options.targets) % len(options.signals)]
            case = kill(target, name, options.seed * 1_000_000 + i)
            cases.append(case)
            if case.wrong:
                text = "; ".join(case.wrong)
                print(f"{case.target}, {case.signal}, seed {case.seed}: {text}", flush=True)
    text = table(cases)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    sys.exit(1 if any(case.wrong for case in cases) else 0)


if __name__ == "__main__":
    main()
