"""The parent's end of a worker: starts it, asks it, and says what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from joulelab.errors import JoulelabError
from joulelab.storage import writing

Event = dict[str, Any]
_STOP_GRACE_S = 20.0


class WorkerFailure(JoulelabError):
    """The worker died or hung, or its recorder died.

    Attributes:
        kind: ``"crash"``, ``"hang"`` or ``"recorder"``.
    """

    def __init__(self, what: str, *, kind: str, why: str = "", hint: str = "") -> None:
        super().__init__(what, why=why, hint=hint)
        self.kind = kind


class WorkerProcess:
    """A process that imports PyTorch once and serves one request after another.

    It leads a process group of its own, so that Ctrl-C reaches the parent alone.

    Args:
        log: The worker's standard error is appended to this file.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        with writing(log), log.open("ab") as stream:
            self._process = subprocess.Popen(
                # -P: a file of the user's named like a module of ours must not be imported for it.
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

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ask(
        self,
        request: Mapping[str, Any],
        *,
        hang_s: float,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> Event:
        """Sends a request and waits for its answer.

        Args:
            request: Serialisable as JSON.
            hang_s: The worker is killed after so many seconds without a word.
            tell: Called with every event that is not the answer, as it comes.

        Raises:
            WorkerFailure: It died or hung. It is gone then.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        last_word = time.monotonic()
        while True:
            event = self._next_event(timeout_s=min(hang_s, 1.0))
            now = time.monotonic()
            if event is None and now - last_word > hang_s:
                self.kill()
                raise WorkerFailure(
                    f"the worker said nothing for {now - last_word:.0f} s and was stopped",
                    kind="hang",
                    why=f"see {self._log.name}",
                    hint="raise hang_s in the plan if it was only slow",
                )
            if event is None:
                continue
            last_word = now
            if event["event"] == "answer":
                return event
            tell(event)

    def _next_event(self, timeout_s: float) -> Event | None:
        while b"\n" not in self._pending:
            if not self._selector.select(timeout_s):
                return None
            assert self._process.stdout is not None
            chunk = os.read(self._process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise self._death()
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        event = json.loads(line)
        assert isinstance(event, dict)
        return event

    def _death(self) -> WorkerFailure:
        code = self._process.wait()
        self._close_pipes()
        return WorkerFailure(
            f"the worker {_ending(code)}",
            kind="crash",
            why=f"its last words are in {self._log.name}",
        )

    def stop(self) -> None:
        """Lets it end by itself, or kills it after a while."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close_pipes()

    def kill(self) -> None:
        """Ends it and all that it started in its group, at once."""
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
    """How a process ended, in words.

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
    hint = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
