"""``%%joulelab`` in a real IPython, and an energy as a notebook shows it."""

import html.parser

import psutil
import pytest

from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.integrations import notebook
from joulelab.sensors.sensor import Provenance

pytest.importorskip("IPython")

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config


@pytest.fixture(scope="module")
def shell():
    config = Config()
    config.HistoryManager.enabled = False
    return InteractiveShell.instance(config=config)


@pytest.fixture
def cells(shell, monkeypatch, tmp_path, own_recorder):
    """The magic's state, with the simulated machine."""
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    shell.run_line_magic("reload_ext", "joulelab")
    cells = shell.magics_manager.magics["cell"]["joulelab"].__self__
    yield cells
    cells.close()


@pytest.fixture
def run_cell(shell, cells):
    def run(cell):
        with capture_output() as seen:
            result = shell.run_cell(cell)
        return result, seen

    return run


def test_a_cell_is_measured_and_runs_unchanged(run_cell, shell):
    result, seen = run_cell("%%joulelab squares\nprint('out')\nx = 6\nx * 7")
    assert result.success, seen
    assert "out" in seen.stdout
    assert "42" in seen.stdout
    (energy,) = [one.data for one in seen.outputs if "text/html" in one.data]
    assert "gpu:0" in energy["text/html"]
    assert "gpu:0" in energy["text/plain"]
    assert shell.user_ns["x"] == 6
    result, seen = run_cell("%%joulelab\nimport asyncio\nawait asyncio.sleep(0)\n1;")
    assert result.success
    assert "1" not in seen.stdout.splitlines()


@pytest.mark.parametrize(
    ("cell", "error"), [("1/0", "ZeroDivisionError"), ("1 +* 2", "SyntaxError")]
)
def test_an_error_of_the_cell_is_shown_once(run_cell, cell, error):
    result, seen = run_cell(f"%%joulelab\n{cell}")
    assert not result.success
    assert type(result.error_in_exec).__name__ == error
    assert seen.stdout.count("Traceback") <= 1
    assert error in seen.stdout
    assert "text/html" in seen.outputs[0].data
    _, seen = run_cell("1/0")
    assert "ZeroDivisionError" in seen.stdout


def test_all_cells_share_a_meter_until_their_sensors_differ(run_cell, cells):
    recorders = []
    for line in ("", "", "--sensors simulated,host"):
        run_cell(f"%%joulelab {line}\npass")
        recorders.append(cells._meter.recorder_pid)
    assert recorders[0] == recorders[1] != recorders[2]
    assert not is_running(recorders[0])
    cells.close()
    assert not is_running(recorders[2])


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_the_meter_is_closed_when_the_process_exits(shell, monkeypatch):
    registered = []
    monkeypatch.setattr(notebook.atexit, "register", registered.append)
    notebook.load(shell)
    for kind in ("cell", "line"):
        assert registered == [shell.magics_manager.magics[kind]["joulelab"].__self__.close]


def test_a_line_is_measured_and_runs_unchanged(run_cell, shell, cells):
    result, seen = run_cell("%joulelab --sensors simulated y = 6 * 7")
    assert result.success, seen
    assert shell.user_ns["y"] == 42
    assert "gpu:0" in seen.outputs[0].data["text/html"]
    assert [span.name for span in cells._meter.spans] == ["line"]
    result, seen = run_cell("%joulelab -y + 1")
    assert "-41" in seen.stdout
    result, _ = run_cell("%joulelab 1/0")
    assert type(result.error_in_exec).__name__ == "ZeroDivisionError"
    result, _ = run_cell("%joulelab --sensor simulated y = 1")
    assert type(result.error_in_exec).__name__ == "UserError"
    assert shell.user_ns["y"] == 42


@pytest.mark.parametrize("cell", ["%joulelab", "%joulelab --help", "%%joulelab --help\nran = 1"])
def test_help_is_printed(run_cell, shell, cells, cell):
    result, seen = run_cell(cell)
    assert result.success, seen
    assert "--sensors NAMES" in seen.stdout
    assert "ran" not in shell.user_ns
    assert cells._meter is None


def test_an_energy_in_a_terminal_is_a_few_short_lines(run_cell):
    _, seen = run_cell("%%joulelab\npass")
    [shown] = [one.data["text/plain"] for one in seen.outputs if "text/html" in one.data]
    assert "ComponentEnergy" not in shown
    assert "gpu:0" in shown
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize("line", ["--sensor cpu", "one two", "--sensors cpuu", "'"])
def test_an_invalid_line_is_a_user_error(run_cell, shell, line):
    result, _ = run_cell(f"%%joulelab {line}\nran = True")
    assert type(result.error_in_exec).__name__ == "UserError"
    assert "ran" not in shell.user_ns


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


def test_an_energy_is_an_html_table_without_colours():
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
