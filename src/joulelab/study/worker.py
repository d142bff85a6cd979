"""The worker: ``python -m joulelab.study.worker PARENT_PID``.

It reads requests from its standard input and writes events to its standard output, a line of JSON
each, and ends when its input ends. Every request gets one event ``answer``; on the way to it come
events ``phase``. Requests:

``{"do": "prepare", "plan": {...}}``
    Answers ``{"machine", "data", "devices"}``, or ``{"refused": [class, what, why, hint]}``.
``{"do": "cell", "directory": ..., "factors": {...}, "seed": n}``
    Answers ``{"body": {...}}``, what happened as :mod:`joulelab.study.records` has it, or
    ``{"unrecorded": reason}`` when the recorder died.
``{"do": "idle", "directory": ...}``
    Likewise.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from joulelab.errors import UserError
from joulelab.runs.store import plain
from joulelab.study.plan import Plan
from joulelab.study.worker_process import Event

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Serves until the input ends or the parent dies."""
    _die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.append(str(Path.cwd()))  # Models of the user's, as ``mymodels:build``; searched last.
    answers = _take_stdout()
    bench: Any = None

    def tell(event: Event) -> None:
        answers.write(json.dumps(plain(event), allow_nan=False) + "\n")
        answers.flush()

    for line in sys.stdin:
        request = json.loads(line)
        answer: Event
        if request["do"] == "prepare":
            try:
                bench = _prepare(Plan.model_validate(request["plan"]))
                answer = bench.describe()
            except UserError as error:
                answer = {
                    "refused": [type(error).__name__, error.what, error.why, error.hint],
                }
        elif request["do"] == "idle":
            answer = bench.idle(Path(request["directory"]))
        else:
            answer = bench.cell(
                Path(request["directory"]), request["factors"], request["seed"], tell
            )
        tell({"event": "answer"} | answer)


def _prepare(plan: Plan) -> Any:
    from joulelab.study.executor import Bench  # noqa: PLC0415  (imports torch)

    return Bench(plan)


def _take_stdout() -> TextIO:
    """The real standard output; what libraries print goes to standard error from now on."""
    sys.stdout.flush()
    real = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(real, "w", encoding="utf-8")


def _die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent dies, however that happens."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the parent is gone")


if __name__ == "__main__":
    main()
