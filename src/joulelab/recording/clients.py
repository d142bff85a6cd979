"""Those whom a recorder serves: how they come, ask, and go."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

from joulelab.errors import RecorderError
from joulelab.recording.connection import Connection, Message, address
from joulelab.recording.runtime import runtime_directory, sweep

BACKLOG = 128


class Client:
    """A process that is measured.

    Attributes:
        connection: The line to it.
        pid: Its process; 0 where it cannot be seen from here.
        introduced_pid: Its process as it sees itself, as its spans have it; ``None`` until it has
            joined.
        own: The recorder is this process's own; others join it.
        ending: A descriptor that becomes readable when it ends; ``None`` where the kernel has none.
    """

    def __init__(self, connection: Connection, *, own: bool = False) -> None:
        self.connection = connection
        self.own = own
        self.introduced_pid: int | None = None
        self.pid, _ = connection.peer()
        self.ending: int | None = None
        with contextlib.suppress(AttributeError, OSError):
            self.ending = os.pidfd_open(self.pid)

    @property
    def alive(self) -> bool:
        """Whether its process is there; a forked child may keep the line of one that is not."""
        if self.pid == 0 or self.ending is not None:
            return True
        return Path(f"/proc/{self.pid}").exists()

    def close(self) -> None:
        """Ends the line."""
        self.connection.close()
        if self.ending is not None:
            os.close(self.ending)


class Clients:
    """The processes that are measured, in one place to wait for all of them.

    Args:
        first: The line to the process that started the recorder.
        own: The recorder is that process's own.
    """

    def __init__(self, first: Connection, *, own: bool) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._path: Path | None = None
        self.members: list[Client] = []
        self._add(Client(first, own=own))

    def listen(self) -> Path | None:
        """Lets this user's processes join, at a socket with that path.

        Nobody can where the system gives no private place for it.
        """
        try:
            place = runtime_directory()
            sweep(place)
            path = place / f"{os.getpid()}-{os.urandom(4).hex()}.sock"
            self._listener = _listener(path)
        except (OSError, RecorderError):
            return None
        self._path = path
        self._selector.register(self._listener, selectors.EVENT_READ)
        return path

    def stop_listening(self) -> None:
        """Turns away who is not yet in."""
        if self._listener is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    @property
    def pids(self) -> list[int]:
        """The processes that are measured, each once."""
        return list(dict.fromkeys(client.pid for client in self.members if client.pid))

    def requests(self, timeout_s: float) -> Iterator[tuple[Client, Message | None]]:
        """Waits until one asks or goes; ``None`` in place of a request says that it is gone."""
        gone: list[Client] = []
        for key, _ in self._selector.select(timeout_s):
            client = key.data
            if client is None:
                self._accept()
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

    def end(self, last_words: Message) -> None:
        """Tells everyone, and ends the lines."""
        self.stop_listening()
        for client in list(self.members):
            client.connection.send(last_words)
            self._remove(client)
        self._selector.close()

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            self._add(Client(Connection(self._listener.accept()[0])))

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
    """A socket that only this user can connect to.

    Raises:
        OSError: There is no place for it.
    """
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
