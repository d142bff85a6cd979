"""``joulelab export`` as a user starts it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from measured_runs import joulelab
from prometheus_server import free_port
from waiting import wait_for

from joulelab.sensors.simulated import SimulatedMachine

EXAMPLES = Path(__file__).parents[2] / "examples" / "export"


@pytest.fixture(autouse=True)
def simulated(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_SENSORS", SimulatedMachine.default().spec())
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))


@pytest.fixture
def served():
    """An exporter in a process of its own, its address and what it prints."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "joulelab", "export", "--port", str(port)],
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stderr.readline()
    yield process, f"http://127.0.0.1:{port}", line
    process.kill()
    process.wait()
    process.stderr.close()


def get(url, method="GET"):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_only_the_metrics_and_an_index_are_served_and_sigterm_ends(served):
    process, address, line = served
    assert line == f"joulelab: metrics are at {address}/metrics; Ctrl-C ends\n"
    status, index = get(f"{address}/")
    assert status == 200
    assert '<a href="/metrics">' in index
    for path in ("/other", "/metrics/", "/metrics/../etc/passwd"):
        assert get(f"{address}{path}")[0] == 404
    assert get(f"{address}/metrics", method="POST")[0] == 405
    status, text = wait_for(
        lambda: (
            (found := get(f"{address}/metrics")) and "joulelab_power_watts{" in found[1] and found
        )
    )
    assert status == 200
    assert "# HELP joulelab_energy_joules_total Energy" in text
    assert 'joulelab_power_watts{component="dram:0",provenance="simulated",role="part"' in text
    # No site is configured: there are no emissions, rather than none of them.
    assert "joulelab_emissions" not in text
    (recorder,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not recorder.is_running()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file that was written once, alone in its directory."""
    directory = tmp_path_factory.mktemp("textfile")
    path = directory / "joulelab.prom"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOULELAB_SENSORS", SimulatedMachine.default().spec())
        patch.setenv("JOULELAB_HOME", str(tmp_path_factory.mktemp("home")))
        ended = joulelab("export", "--textfile", path, "--once")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    return path


def test_a_file_is_written_once_and_is_whole(written):
    path = written
    text = path.read_text()
    (power_w,) = re.findall(r'joulelab_power_watts{component="dram:0".*} (.*)', text)
    (energy_j,) = re.findall(r'joulelab_energy_joules_total{component="dram:0".*} (.*)', text)
    assert float(power_w) == pytest.approx(6, rel=0.2)
    assert 2 < float(energy_j) < 600
    assert text.endswith("\n")
    assert path.stat().st_mode & 0o777 == 0o666 & ~get_umask()
    assert [one.name for one in path.parent.iterdir()] == ["joulelab.prom"]


def get_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_file_is_updated_and_removed_at_the_end(tmp_path):
    path = tmp_path / "joulelab.prom"
    arguments = ["export", "--textfile", str(path), "--interval", "1"]
    process = subprocess.Popen([sys.executable, "-m", "joulelab", *arguments])
    wait_for(path.exists)
    first = path.read_text()
    wait_for(lambda: path.read_text() != first)
    process.terminate()
    assert process.wait() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--port", "99999"], "Invalid value for '--port': 99999 is not in the range 0<=x<=65535."),
        (["--once"], "--once writes a file: add --textfile PATH"),
        (["--textfile", "x", "--otlp", "http://x"], "--textfile and --otlp are two ways to export"),
        (["--listen", "192.0.2.1", "--port", "0"], "cannot listen on 192.0.2.1:0: "),
        (["--listen", "no such host"], "cannot listen on no such host:9836: "),
        (["--textfile", "/missing/x.prom"], "cannot write /missing/x.prom: No such file"),
        (["--sensors", "none"], "none"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(refused, arguments, error):
    errors = refused("export", *arguments)
    assert error in errors
    assert errors.startswith("joulelab: ")


def test_a_port_that_is_in_use_is_one_line_and_exit_code_2(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        errors = refused("export", "--port", port)
    assert errors == (
        f"joulelab: cannot listen on 127.0.0.1:{port}: Address already in use; choose another "
        "--port, or --listen on an address of this machine\n"
    )


def test_the_dashboard_needs_no_sensor(printed, monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", "unknown")
    output = printed("export", "--dashboard")
    dashboard = json.loads(output)
    edges = {(one["gridPos"]["x"], one["gridPos"]["y"]) for one in dashboard["panels"]}
    assert len(edges) == len(dashboard["panels"])
    assert all(one["gridPos"]["x"] + one["gridPos"]["w"] <= 24 for one in dashboard["panels"])


def test_a_missing_package_is_named_with_its_extra():
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from joulelab.cli.app import main; main(['export', '--port', '0'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, stderr=subprocess.PIPE, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "joulelab: cannot export energy: prometheus_client is not installed; "
        "run pip install 'joulelab[export]'\n"
    )


@pytest.mark.skipif(not shutil.which("promtool"), reason="apt-get install prometheus")
def test_prometheus_accepts_the_metrics_and_the_example(written):
    for arguments, given in (
        (["check", "metrics"], written.read_bytes()),
        (["check", "config", EXAMPLES / "prometheus.yml"], None),
    ):
        checked = subprocess.run(
            ["promtool", *arguments], input=given, check=False, capture_output=True
        )
        assert checked.returncode == 0, checked.stderr
