"""Connections between programs and their recorder: JSON messages on Unix sockets.

Neither end waits for the other longer than it states, and neither is killed when the other ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import selectors
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from joulelab.errors import RecorderError, StoreError
from joulelab.recording.trace_format import TEMPORARY
from joulelab.storage import STALE_AFTER_S, in_use, private_directory
from joulelab.validation import InvalidData, decode

Message = dict[str, Any]

LONGEST_ADDRESS_BYTES = 107
"""unix(7): sun_path has 108 bytes and ends in a zero."""
MOST_DESCRIPTORS = 2
BACKLOG = 128
UNUSED_AFTER_S = 86_400.0
"""A job's lock file that has not been used for this long is removed."""
LONGEST_MESSAGE_BYTES = 1 << 20
_READ = 1 << 16
_CREDENTIALS = struct.Struct("3i")


class Descriptor:
    """A file descriptor that the program around us may close, and use its number for another file.

    Programs close all descriptors that they do not know, for example to become a daemon.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._file = _file_of(number)

    def check(self) -> None:
        """Raise ``OSError`` unless the number still stands for the same file."""
        if _file_of(self.number) != self._file:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    @property
    def is_intact(self) -> bool:
        """Whether the number still stands for the same file."""
        try:
            self.check()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the file, unless the program did."""
        if self.is_intact:
            os.close(self.number)


def _file_of(number: int) -> tuple[int, int]:
    found = os.fstat(number)
    return found.st_dev, found.st_ino


class MessageSocket:
    """One end of a connection, and the file descriptors that came with its messages."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._own = Descriptor(end.fileno())
        self._received = b""
        self._waiting: list[Message] = []
        self.descriptors: list[Descriptor] = []

    @classmethod
    def connect(cls, path: Path, timeout_s: float) -> MessageSocket:
        """Connect to the listener at a path.

        Raises:
            OSError: There is none, or it is another user's.
        """
        end = socket.socket(socket.AF_UNIX)
        try:
            end.settimeout(timeout_s)
            with address(path) as name:
                end.connect(name)
            connected = cls(end)
            if connected.peer()[1] != os.getuid():
                raise PermissionError(f"another user listens at {path}")
        except OSError:
            end.close()
            raise
        return connected

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def peer(self) -> tuple[int, int]:
        """Return the process (0 if it is not visible) and the user at the other end."""
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, user, _ = _CREDENTIALS.unpack(data)
        return pid, user

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send a message. Return false if the other end is gone or does not read.

        A process that sends file descriptors along must ignore SIGPIPE.
        """
        data = json.dumps(message).encode() + b"\n"
        try:
            self._own.check()
            if descriptors:
                return socket.send_fds(self._socket, [data], descriptors) == len(data)
            return self._socket.send(data, socket.MSG_NOSIGNAL) == len(data)
        except OSError:
            return False

    def receive(self) -> list[Message] | None:
        """Return the messages that have arrived; ``None`` if the other end is gone or invalid.

        It is invalid if it sends something else than objects of JSON, or too much.
        """
        try:
            self._own.check()
            data, descriptors, _, _ = socket.recv_fds(self._socket, _READ, MOST_DESCRIPTORS)
        except BlockingIOError:
            return []
        except OSError:
            return None
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self.descriptors += map(Descriptor, descriptors)
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > LONGEST_MESSAGE_BYTES:
            return None
        try:
            return [decode(line, dict[str, Any]) for line in lines]
        except InvalidData:
            return None

    def answer(self, timeout_s: float) -> Message | None:
        """Wait for the next message; ``None`` if there is none in time."""
        deadline_s = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._own.number, select.POLLIN)
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
        """Whether the other end is still there. Leaves its messages unread."""
        poll = select.poll()
        poll.register(self._own.number, select.POLLRDHUP)
        return self._own.is_intact and not poll.poll(0)

    @property
    def is_intact(self) -> bool:
        """Whether the program around us has left the socket open."""
        return self._own.is_intact

    def close(self) -> None:
        """Close the socket."""
        if self._own.is_intact:
            self._socket.close()
        else:
            self._socket.detach()


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """Provide a socket's address, however long its path is."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class Client:
    """A measured process, as its recorder sees it.

    Attributes:
        owner: Whether it started the recorder for itself; others join.
        introduced_pid: Its pid in its own namespace; ``None`` until it has joined.
        pid: Its pid here; 0 if it is not visible.
        ending: A descriptor that becomes readable when it ends; ``None`` if the kernel has none.
    """

    def __init__(self, connection: MessageSocket, *, owner: bool = False) -> None:
        self.connection = connection
        self.owner = owner
        self.introduced_pid: int | None = None
        self.pid, _ = connection.peer()
        self.ending: int | None = None
        with contextlib.suppress(AttributeError, OSError):
            self.ending = os.pidfd_open(self.pid)

    @property
    def alive(self) -> bool:
        """Whether its process exists. A forked child may keep the connection of one that ended."""
        if self.pid == 0 or self.ending is not None:
            return True
        return Path(f"/proc/{self.pid}").exists()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
        if self.ending is not None:
            os.close(self.ending)


class Clients:
    """The measured processes: the one that started the recorder, and those that join."""

    def __init__(self, first: MessageSocket, *, owner: bool) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._path: Path | None = None
        self._own_directory: Path | None = None
        self.obstacle = ""
        self.members: list[Client] = []
        self._add(Client(first, owner=owner))

    def listen(self) -> Path | None:
        """Let this user's processes join at a socket; ``None`` if no directory can be made.

        Processes read its path in the trace, so it may be anywhere: if another user has taken the
        usual directory, :attr:`obstacle` says so, and it is in one of its own.
        """
        try:
            try:
                directory = runtime_directory()
                remove_stale(directory)
            except RecorderError as error:
                self.obstacle = str(error)
                directory = self._own_directory = Path(tempfile.mkdtemp(prefix=TEMPORARY))
                in_use(directory)  # Until this process ends.
            path = directory / f"{os.getpid()}-{os.urandom(4).hex()}.sock"
            self._listener = _listener(path)
        except (OSError, RecorderError):
            return None
        self._path = path
        self._selector.register(self._listener, selectors.EVENT_READ)
        return path

    def stop_listening(self) -> None:
        """Refuse further processes."""
        if self._listener is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            if self._own_directory is not None:
                self._own_directory.rmdir()
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    @property
    def pids(self) -> list[int]:
        """The measured processes, each once."""
        return list(dict.fromkeys(client.pid for client in self.members if client.pid))

    def requests(self, timeout_s: float) -> Iterator[tuple[Client, Message | None]]:
        """Wait for requests. A request of ``None`` means that the client has ended."""
        gone: list[Client] = []
        for key, _ in self._selector.select(timeout_s):
            client = key.data
            if client is None:
                assert self._listener is not None
                with contextlib.suppress(OSError):
                    self._add(Client(MessageSocket(self._listener.accept()[0])))
                continue
            ended = key.fileobj is not client.connection
            messages = None if ended else client.connection.receive()
            if messages is None:
                gone.append(client)
            else:
                yield from ((client, message) for message in messages)
        gone += [client for client in self.members if not client.alive]
        for client in dict.fromkeys(gone):
            self._remove(client)
            yield client, None

    def end(self, message: Message) -> None:
        """Send a last message to every client and close the connections."""
        self.stop_listening()
        for client in list(self.members):
            client.connection.send(message)
            self._remove(client)
        self._selector.close()

    def _add(self, client: Client) -> None:
        self.members.append(client)
        self._selector.register(client.connection, selectors.EVENT_READ, client)
        if client.ending is not None:
            self._selector.register(client.ending, selectors.EVENT_READ, client)

    def _remove(self, client: Client) -> None:
        self.members.remove(client)
        self._selector.unregister(client.connection)
        if client.ending is not None:
            self._selector.unregister(client.ending)
        client.close()


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        with address(path) as name:
            listener.bind(name)
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def runtime_directory() -> Path:
    """Return the user's private directory for sockets and locks: in ``$XDG_RUNTIME_DIR`` or /tmp.

    Raises:
        RecorderError: It belongs to another user, or others may use it.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        with contextlib.suppress(StoreError):
            # Launchers pass the variable on to other hosts, where the directory may not exist.
            return private_directory(Path(given) / "joulelab")
    try:
        return private_directory(Path(tempfile.gettempdir()) / f"joulelab-{os.getuid()}")
    except StoreError as error:
        raise RecorderError(
            "there is no directory for the recorder's socket", why=error.what, hint=error.hint
        ) from error


def remove_stale(directory: Path) -> None:
    """Remove what recorders and jobs that were killed have left in the runtime directory."""
    now_s = time.time()
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            age_s = now_s - path.stat().st_mtime
            if path.suffix == ".job" and age_s > UNUSED_AFTER_S:
                _remove_if_unlocked(path)
            elif path.suffix == ".sock" and age_s > STALE_AFTER_S and not _has_listener(path):
                path.unlink()


def _remove_if_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _has_listener(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
