"""Programs that print a reading, run with a limit on their time and output."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from joulelab.sensors.meters.replies import MeterError

LARGEST_OUTPUT_BYTES = 1 << 20
_SHOWN = 160


class Program:
    """Runs one program, again and again.

    Args:
        command: The program and its arguments.
        timeout_s: Time for a run; then it is killed with its children.
        environment: Further variables of its environment.
    """

    def __init__(
        self,
        command: Sequence[str],
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command, self._timeout_s = tuple(command), timeout_s
        self._secrets = tuple((environment or {}).values())
        self._environment = dict(environment or {})

    def run(self) -> str:
        """Return what the program prints.

        Raises:
            MeterError: It cannot be run, fails, takes too long or prints too much.
        """
        name = self._command[0]
        # Programs translate their output.
        environment = os.environ | {"LC_ALL": "C"} | self._environment
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise MeterError(f"{name} is not installed") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise MeterError(f"cannot run {name}: {why}") from None
        try:
            output, errors = self._output(process)
            status = process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            raise MeterError(f"{name} did not end within {self._timeout_s:g} s") from None
        finally:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if status != 0:
            last = " ".join(errors.strip().splitlines()[-1:]) or "no message"
            raise MeterError(f"{name} failed with status {status}: {self._redacted(last)[:_SHOWN]}")
        return output

    def _output(self, process: subprocess.Popen[bytes]) -> tuple[str, str]:
        """Read what a program prints until it closes both streams."""
        until_s = time.monotonic() + self._timeout_s
        assert process.stdout is not None
        assert process.stderr is not None
        found = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
        with selectors.DefaultSelector() as selector:
            for descriptor in found:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise MeterError(f"{self._command[0]} did not end within {self._timeout_s:g} s")
                for key, _ in selector.select(left_s):
                    part = os.read(key.fd, 1 << 16)
                    if not part:
                        selector.unregister(key.fd)
                    found[key.fd] += part
                    if len(found[key.fd]) > LARGEST_OUTPUT_BYTES:
                        raise MeterError(f"{self._command[0]} prints more than 1 MB")
        output, errors = (text.decode(errors="replace") for text in found.values())
        return output, errors

    def _redacted(self, text: str) -> str:
        for one in self._secrets:
            text = text.replace(one, "***")
        return text
