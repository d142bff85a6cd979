import socket

import pytest


@pytest.fixture
def no_network(monkeypatch):
    """Refuse every connection."""

    def refuse(*_arguments, **_options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
