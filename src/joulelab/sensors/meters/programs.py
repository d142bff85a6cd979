"""Programs that print a reading, run with a limit on their time and output."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from joulelab.sensors.meters.replies import MeterError

LARGEST_OUTPUT_BYTES = 1 << 20
_SHOWN = 160


def run_program(command: Sequence[str], timeout_s: float, secrets: dict[str, str]) -> str:
    """Return what a program prints. It is killed with its children when the time is over.

    Args:
        command: The program and its arguments.
        timeout_s: Time for the run.
        secrets: Further variables of its environment, which no message contains.

    Raises:
        MeterError: It cannot be run, fails, takes too long or prints too much.
    """
    name = command[0]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"LC_ALL": "C"} | secrets,  # Programs translate their output.
            start_new_session=True,
        )
    except FileNotFoundError:
        raise MeterError(f"{name} is not installed") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MeterError(f"cannot run {name}: {why}") from None
    with process:
        try:
            output, errors = _read_both(process, name, time.monotonic() + timeout_s)
            status = process.wait(timeout=1.0)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise MeterError(f"{name} did not end within {timeout_s:g} s") from None
        finally:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
    if status != 0:
        last = " ".join(errors.strip().splitlines()[-1:]) or "no message"
        for secret in secrets.values():
            last = last.replace(secret, "***")
        raise MeterError(f"{name} failed with status {status}: {last[:_SHOWN]}")
    return output


def _read_both(process: subprocess.Popen[bytes], name: str, until_s: float) -> list[str]:
    """Read both streams of a program until it closes them."""
    found = {stream.fileno(): b"" for stream in (process.stdout, process.stderr) if stream}
    with selectors.DefaultSelector() as selector:
        for descriptor in found:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            for key, _ in selector.select(left_s):
                part = os.read(key.fd, 1 << 16)
                if not part:
                    selector.unregister(key.fd)
                found[key.fd] += part
                if len(found[key.fd]) > LARGEST_OUTPUT_BYTES:
                    raise MeterError(f"{name} prints more than 1 MB")
    return [text.decode(errors="replace") for text in found.values()]
