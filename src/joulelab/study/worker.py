"""The worker process that runs cells: both ends of it.

The runner starts ``python -m joulelab.study.worker PARENT_PID``. The worker reads requests from its
standard input and writes events to its standard output, one line of JSON each, and ends when its
input ends. Every request gets one event ``answer``; before it may come events ``phase``. Requests:

``{"do": "prepare", "plan": {...}}``
    Answers ``{"machine", "data", "devices"}``, or ``{"refused": [class, what, why, hint]}``.
``{"do": "cell", "directory": ..., "factors": {...}, "seed": n}``
    Answers ``{"body": {...}}``, the part of the record that :mod:`joulelab.study.cells` leaves
    open, or ``{"unrecorded": reason}`` if the recorder died.
``{"do": "idle", "directory": ...}``
    Likewise.
``{"do": "probe", "directory": ..., "factors": {...}, "seed": n, "window_s": s, "most_s": s}``
    Likewise; the result of the phase has the energy of its steady steps and, for each of them, the
    duration and the samples (:class:`joulelab.forecast.steady.SteadyWindow`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from joulelab.errors import JoulelabError, UserError
from joulelab.format import finite_or_none
from joulelab.storage import writing
from joulelab.study.plan import Plan

Json = dict[str, Any]

_STOP_GRACE_S = 20.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class WorkerFailure(JoulelabError):
    """The worker died or hung, or its recorder died; ``kind`` is "crash", "hang" or "recorder"."""

    def __init__(self, what: str, *, kind: str, why: str = "", hint: str = "") -> None:
        super().__init__(what, why=why, hint=hint)
        self.kind = kind


class WorkerProcess:
    """The runner's end: a process that imports PyTorch once and serves one request after another.

    It leads its own process group, so that Ctrl-C reaches the runner alone.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        with writing(log), log.open("ab") as stream:
            self._process = subprocess.Popen(
                # -P: a file of the user's with the name of one of our modules must not be imported.
                [sys.executable, "-P", "-m", "joulelab.study.worker", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                process_group=0,
            )
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._pending = b""

    def ask(
        self,
        request: Mapping[str, Any],
        *,
        hang_s: float,
        on_event: Callable[[Json], None] = lambda event: None,
    ) -> Json:
        """Send a request and wait for its answer; kill the worker after a silence of ``hang_s``.

        Raises:
            WorkerFailure: It died or hung. It is gone then.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        heard_s = time.monotonic()
        while True:
            event = self._next_event(timeout_s=min(hang_s, 1.0))
            now_s = time.monotonic()
            if event is None and now_s - heard_s > hang_s:
                self.kill()
                raise WorkerFailure(
                    f"the worker reported nothing for {now_s - heard_s:.0f} s and was stopped",
                    kind="hang",
                    why=f"see {self._log.name}",
                    hint="raise hang_s in the plan if it was only slow",
                )
            if event is None:
                continue
            heard_s = now_s
            if event["event"] == "answer":
                return event
            on_event(event)

    def _next_event(self, timeout_s: float) -> Json | None:
        while b"\n" not in self._pending:
            if not self._selector.select(timeout_s):
                return None
            assert self._process.stdout is not None
            chunk = os.read(self._process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise self._death()
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        event: Json = json.loads(line)
        return event

    def _death(self) -> WorkerFailure:
        code = self._process.wait()
        self._close_pipes()
        return WorkerFailure(
            f"the worker {_ending(code)}",
            kind="crash",
            why=f"its last output is in {self._log.name}",
        )

    def stop(self) -> None:
        """Let it end by itself; kill it if it does not."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close_pipes()

    def kill(self) -> None:
        """Kill it and everything that it started in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _ending(code: int) -> str:
    """Describe how a process ended.

    Example:
        >>> _ending(-11), _ending(3)
        ('was killed by SIGSEGV', 'ended with exit code 3')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", which the kernel sends when memory runs out" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def main() -> None:
    """Serve until the input ends or the runner dies."""
    _die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.append(str(Path.cwd()))  # The user's models, ``mymodels:build``; searched last.
    answers = _take_stdout()
    executor: Any = None

    def send(event: Json) -> None:
        answers.write(json.dumps(finite_or_none(event), allow_nan=False) + "\n")
        answers.flush()

    for line in sys.stdin:
        request = json.loads(line)
        answer: Json
        if request["do"] == "prepare":
            try:
                executor = _prepare(Plan.model_validate(request["plan"]))
                answer = executor.describe()
            except UserError as error:
                answer = {"refused": [type(error).__name__, error.what, error.why, error.hint]}
        elif request["do"] == "idle":
            answer = executor.idle(Path(request["directory"]), send)
        elif request["do"] == "probe":
            answer = _probe(executor, request, send)
        else:
            answer = executor.cell(
                Path(request["directory"]), request["factors"], request["seed"], send
            )
        send({"event": "answer"} | answer)


def _prepare(plan: Plan) -> Any:
    from joulelab.study.executor import Executor  # noqa: PLC0415  (imports torch)

    return Executor(plan)


def _probe(executor: Any, request: Json, send: Callable[[Json], None]) -> Json:
    from joulelab.forecast.steady import SteadyWindow  # noqa: PLC0415

    window = SteadyWindow(request["window_s"], request["most_s"])
    directory, factors = Path(request["directory"]), request["factors"]
    answer: Json = executor.probe(directory, factors, request["seed"], window, send)
    return answer


def _take_stdout() -> TextIO:
    """Take the real standard output; what libraries print goes to standard error from now on."""
    sys.stdout.flush()
    real = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(real, "w", encoding="utf-8")


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the runner dies, however that happens."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the runner is gone")


if __name__ == "__main__":
    main()
