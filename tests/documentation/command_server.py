"""Run the examples' `joulelab` commands in forks of one process that has PyTorch imported.

Importing PyTorch, pandas and Altair takes seconds for each command, and the pages have over a
hundred. A shim named `joulelab` sends arguments, directory, environment and file descriptors to
the server, whose fork then runs the command as a process of its own.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

MODULES = (
    "altair",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.datasets",
    "torch",
    "torchvision",
)
REAL = ("run", "watch", "idle", "doctor")
"""Commands that are processes of their own from the start: they deal with signals and terminals."""
SHIM = """#!{python} -ISsB
import json, os, socket, sys
if len(sys.argv) < 2 or sys.argv[1] in {real}:
    os.execv({python!r}, [{python!r}, "-m", "joulelab", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(int(server.makefile().read() or 1))
"""


def start(folder):
    """Start a server and return its process; the shim is `folder`/joulelab."""
    address = folder / "socket"
    shim = folder / "joulelab"
    shim.write_text(SHIM.format(python=sys.executable, real=REAL, address=str(address)))
    shim.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, address],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent / "no_network")},
        stdout=subprocess.PIPE,
    )
    assert server.stdout.readline() == b"ready\n"
    return server


def serve(address):
    """Serve requests until the process is killed."""
    for name in MODULES:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
                os._exit(0)
            connection.close()
            _reap()


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def _answer(connection):
    size, descriptors, *_ = socket.recv_fds(connection, 4, 3)
    stream = connection.makefile("rb")
    arguments, directory, environment = json.loads(stream.read(int.from_bytes(size, "big")))
    child = os.fork()
    if child == 0:
        stream.close()
        connection.close()
        _command(arguments, directory, environment, descriptors)
    _, status = os.waitpid(child, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _command(arguments, directory, environment, descriptors):
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    code = 1
    try:
        importlib.import_module("joulelab.cli.app").main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:  # noqa: BLE001  (what Python would print at the end of a process)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
