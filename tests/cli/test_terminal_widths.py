"""What commands print on a real terminal: lines fit it, and values are whole."""

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.cli.output import PlainConsole, value_table

COMMANDS = {
    "show": ("show",),
    "runs": ("runs",),
    "ledger": ("ledger", "--country", "DE", "--price", "0.3", "--currency", "EUR"),
    "compare": ("compare", "previous", "latest"),
    "forecast": ("forecast", "latest", "--epochs", "100", "--country", "DE"),
}
BROKEN = re.compile(r"\d\n +(J|kJ|W|Wh|g|mg|ms|s|%|EUR)\b|95 %\n|±\n")


def on_terminal(words, columns, home):
    """Return what a command prints on a terminal of this width."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "JOULELAB_HOME": str(home), "NO_COLOR": "1", "TERM": "dumb"}
    chunks = []

    def read():
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # The terminal is closed.
                return
            chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "joulelab", *words]
    done = subprocess.run(
        command, env=environment, stdout=slave, stderr=subprocess.PIPE, check=False
    )
    os.close(slave)
    reader.join()
    os.close(master)
    assert done.returncode == 0, done.stderr
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_lines_fit_a_terminal_and_values_are_whole(two_runs, name, columns):
    home, _ = two_runs
    text = on_terminal(COMMANDS[name], columns, home)
    assert re.search(r"\d J\b", text)
    assert not BROKEN.search(text)
    for line in text.splitlines():
        has_long_word = max(map(len, line.split()), default=0) > columns - 16
        assert len(line) <= columns or has_long_word, line


@given(width=st.integers(50, 160), values=st.integers(1, 9), longest=st.integers(3, 30))
def test_a_table_that_is_too_wide_becomes_several_with_whole_names(width, values, longest):
    names = ["m" * length for length in range(1, longest)]
    table = value_table("model", [f"v{number}" for number in range(values)], "Title")
    for name in names:
        table.add_row(name, *(f"1.{len(name)} J ({number})" for number in range(values)))
    console = PlainConsole(width=width, record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines]
    for name in names:
        found = [word for row in rows if row[:1] == [name] for word in row[1:]]
        assert [word for word in found if word[0] == "("] == [f"({i})" for i in range(values)]
    assert sum(line.strip() == "Title" for line in lines) == 1
