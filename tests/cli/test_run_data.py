"""Data of a wrapped command, as counted by the kernel."""

import json
import subprocess
import sys

import pytest

MEGABYTE = 1_000_000
SENDS = """
import socket, threading
def answer():
    with server.accept()[0] as accepted:
        while accepted.recv(1 << 20):
            pass
with socket.create_server(("127.0.0.1", 0)) as server:
    reader = threading.Thread(target=answer)
    reader.start()
    with socket.create_connection(server.getsockname()) as client:
        for _ in range(1000):
            client.sendall(bytes(1_000_000))
    reader.join()
"""
READS = """
import subprocess, sys
for _ in range(10):
    subprocess.run([sys.executable, "-S", "-c", "open(%r, 'rb').read()"], check=True)
"""


@pytest.fixture
def wrapped(tmp_path, monkeypatch):
    """A function that runs Python code under `joulelab run`; gives the counters and the summary."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    for name in ("JOULELAB_SENSORS", "JOULELAB_RECORDING"):
        monkeypatch.delenv(name, raising=False)

    def run(code):
        out = tmp_path / "run.json"
        command = [sys.executable, "-m", "joulelab", "run", "--json", out, "--"]
        done = subprocess.run(
            [*command, sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return json.loads(out.read_text())["exchanged"], done.stderr

    return run


def test_bytes_over_loopback(wrapped):
    exchanged, summary = wrapped(SENDS)
    for direction in ("sent_bytes", "received_bytes"):
        value, low, high = exchanged["loopback"][direction]
        # Headers, and whatever else the machine sends to itself.
        assert 1000 * MEGABYTE <= value < 1010 * MEGABYTE
        assert low <= value <= high
    assert "within the machine (whole machine)" in summary
    assert "networks used" not in summary


def test_bytes_that_children_read(wrapped, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(bytes(100 * MEGABYTE))
    exchanged, summary = wrapped(READS % str(data))
    value, low, high = exchanged["files"]["read_bytes"]
    # Python itself reads a few megabytes.
    assert 1000 * MEGABYTE <= value < 1020 * MEGABYTE
    assert low <= value <= high
    assert "in files" in summary
