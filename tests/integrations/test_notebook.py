"""``%%joulelab`` in a real IPython, and an energy as a notebook shows it."""

import html.parser
import subprocess
import sys
import textwrap

import pytest

from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.sensors.sensor import Provenance

pytest.importorskip("IPython")

SESSION = """
    import os, sys
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "joulelab")

    def run(cell):
        with capture_output() as seen:
            result = shell.run_cell(cell, store_history=True)
        return result, seen
"""


def session(code):
    """Runs code in a process with an IPython shell."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SESSION) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def simulated(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))


def test_a_cell_is_measured_and_otherwise_as_it_is():
    session("""
        result, seen = run("%%joulelab squares\\nprint('out')\\nx = 6\\nx * 7")
        assert result.success, seen
        assert "out" in seen.stdout, seen.stdout
        assert "42" in seen.stdout, seen.stdout
        energy, = [one.data for one in seen.outputs if "text/html" in one.data]
        assert "gpu:0" in energy["text/html"] and "gpu:0" in energy["text/plain"], energy
        assert shell.user_ns["x"] == 6
        result, seen = run("%%joulelab\\nimport asyncio\\nawait asyncio.sleep(0)\\n1;")
        assert result.success
        assert "1" not in [line for line in seen.stdout.splitlines()]
    """)


@pytest.mark.parametrize(
    ("cell", "error"), [("1/0", "ZeroDivisionError"), ("1 +* 2", "SyntaxError")]
)
def test_an_error_is_the_cells_and_shown_once(cell, error):
    session(f"""
        result, seen = run("%%joulelab\\n{cell}")
        assert not result.success
        assert type(result.error_in_exec).__name__ == "{error}"
        assert seen.stdout.count("Traceback") <= 1, seen.stdout
        assert "{error}" in seen.stdout
        assert "text/html" in seen.outputs[0].data
        result, seen = run("1/0")
        assert "ZeroDivisionError" in seen.stdout
    """)


def test_one_meter_serves_all_cells_and_ends_with_the_process():
    output = session("""
        import psutil
        for _ in range(3):
            run("%%joulelab\\npass")
            recorder, = psutil.Process().children()
            print(recorder.pid)
        run("%%joulelab --sensors simulated,host\\npass")
        print([one.pid for one in psutil.Process().children() if one.status() != "zombie"])
    """)
    *first, last = output.split("\n")[:4]
    assert len(set(first)) == 1
    assert first[0] not in last


def test_what_is_not_understood_is_told():
    session("""
        for line in ("--sensor cpu", "one two", "--sensors cpuu", "'"):
            result, seen = run(f"%%joulelab {line}\\nran = True")
            assert type(result.error_in_exec).__name__ == "UserError", (line, seen.stdout)
            assert "ran" not in shell.user_ns
    """)


class _Text(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.open = "", []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def test_an_energy_is_a_table_without_colours_of_its_own():
    part = ComponentEnergy(
        component="gpu:0",
        source="nvml.samples",
        provenance=Provenance.MEASURED,
        duration_s=2.0,
        gross_j=600.0,
        gain_uncertainty=0.05,
    )
    energy = Energy(
        duration_s=2.0,
        components={"gpu:0": part},
        absent={"cpu:0": "no <RAPL>"},
        notes=("a & b",),
    )
    shown = energy._repr_html_()
    parser = _Text()
    parser.feed(shown)
    assert parser.open == []
    for text in ("gpu:0", "600 J", "541–659 J", "measured", "total", "no <RAPL>", "a & b"):
        assert text in parser.text
    assert "nan" not in parser.text
    assert "color" not in shown
    assert "background" not in shown
