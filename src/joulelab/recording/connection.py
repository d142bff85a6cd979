"""One end of the line between a program and its recorder: JSON, both ways, on a Unix socket.

Neither end waits for the other longer than it says, and neither is killed by the other's end.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Message = dict[str, Any]

LONGEST_ADDRESS_BYTES = 107
"""unix(7): sun_path has 108, and ends in a zero."""
MOST_DESCRIPTORS = 2
_READ = 1 << 16
_CREDENTIALS = struct.Struct("3i")


class Connection:
    """A connected stream socket.

    Args:
        end: Closed with it.

    Attributes:
        descriptors: Those that came with messages and were not yet taken.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._received = b""
        self._waiting: list[Message] = []
        self.descriptors: list[int] = []

    @classmethod
    def to(cls, path: Path, timeout_s: float) -> Connection:
        """Connects to who listens there.

        Raises:
            OSError: Nobody does, or another user.
        """
        end = socket.socket(socket.AF_UNIX)
        try:
            end.settimeout(timeout_s)
            with address(path) as name:
                end.connect(name)
            connection = cls(end)
            if connection.peer()[1] != os.getuid():
                raise PermissionError(f"another user listens at {path}")
        except OSError:
            end.close()
            raise
        return connection

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def peer(self) -> tuple[int, int]:
        """Process and user at the other end when it was connected; process 0 if it is not seen."""
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, user, _ = _CREDENTIALS.unpack(data)
        return pid, user

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Hands over one message; false when the other end is gone or does not listen."""
        data = json.dumps(message).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            sent = self._socket.sendmsg([data], rights if descriptors else [], flags)
        except OSError:
            return False
        return sent == len(data)

    def receive(self) -> list[Message] | None:
        """The messages that have come in; ``None`` when the other end is gone or talks nonsense."""
        space = socket.CMSG_LEN(MOST_DESCRIPTORS * array.array("i").itemsize)
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ, space, flags)
        except BlockingIOError:
            return []
        except OSError:
            return None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(content[: len(content) // received.itemsize * received.itemsize])
                self.descriptors += received
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return messages if all(isinstance(one, dict) for one in messages) else None

    def answer(self, timeout_s: float) -> Message | None:
        """The next message, or nothing when the other end is silent or gone."""
        deadline_s = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self._waiting:
            messages = self.receive()
            if messages is None:
                return None
            self._waiting += messages
            left_s = deadline_s - time.monotonic()
            if not messages and (left_s <= 0 or not poll.poll(left_s * 1e3)):
                return None
        return self._waiting.pop(0)

    @property
    def open(self) -> bool:
        """Whether the other end is still there. Takes nothing of what it said."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return not poll.poll(0)

    def close(self) -> None:
        """Ends it."""
        self._socket.close()


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """A socket's address, however long its path is."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
