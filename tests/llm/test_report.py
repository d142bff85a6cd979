"""``joulelab llm report``: requests and power of others, on one clock."""

import gzip
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from benchmarks.token_attribution import Case, record, simulate
from measured_runs import joulelab

from joulelab.errors import UserError
from joulelab.format import quantity
from joulelab.llm.power_source import PowerSource
from joulelab.llm.request_files import write_requests
from joulelab.llm.requests import TIMES
from joulelab.llm.text import headline, request_text
from joulelab.llm.token_attribution import UNKNOWN_COST, attribute
from joulelab.logs.power_log import read_logs
from joulelab.recording.trace import Readings
from joulelab.recording.trace_format import EVENTS_FILE, READINGS_FILE, pack, pack_header

UNIX_S = 1_770_000_000.0
FIELDS = {
    "requests", "input_tokens", "output_tokens", "duration_s", "gross_j", "idle_j", "net_j",
    "j_per_input_token", "j_per_input_token_low", "j_per_input_token_high", "j_per_output_token",
    "j_per_output_token_low", "j_per_output_token_high", "gross_j_per_output_token", "steady_state",
    "per_request",
}  # fmt: skip
"""What scripts rely on."""

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def server():
    """A server with known joules per token, eight requests at a time for ten seconds."""
    case = Case(duration_s=10.0, period_s=0.05)
    rng = np.random.default_rng(1)
    truth = simulate(case, rng)
    return truth, record(truth, case, rng)


@pytest.fixture
def files(server, tmp_path):
    """Write requests and power to files, with times that are shifted by two numbers of seconds."""

    def write(requests_shift_s=0.0, power_shift_s=0.0):
        truth, trace = server
        requests, power = tmp_path / "requests.jsonl", tmp_path / "power.csv"
        write_requests(requests, truth.requests.shifted(requests_shift_s))
        power.write_text(power_csv(trace.series[0], power_shift_s))
        return requests, power

    return write


def power_csv(readings, shift_s=0.0):
    rows = zip(readings.t_ns * 1e-9 + shift_s, readings.value, strict=True)
    return "time_s,power [W]\n" + "".join(f"{t_s:.3f},{power_w:.3f}\n" for t_s, power_w in rows)


@pytest.fixture
def report(run):
    """Run the command in this process, and return its JSON."""

    def call(*arguments):
        code, out, err = run("llm", "report", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


@pytest.fixture
def refuse(refused):
    return partial(refused, "llm", "report")


def check(found, truth):
    assert found.keys() >= FIELDS
    requests = truth.requests
    assert found["requests"] == len(requests)
    assert found["output_tokens"] == requests.output_tokens.sum()
    assert found["j_per_output_token"] == pytest.approx(truth.j_per_output_token, rel=0.02)
    assert found["j_per_input_token"] == pytest.approx(truth.j_per_input_token, rel=0.08)
    assert found["gross_j"] == pytest.approx(found["idle_j"] + found["net_j"])
    whole = sum(one["energy_j"] for one in found["per_request"])
    assert whole == pytest.approx(found["net_j"], rel=0.01)
    assert [one["request"] for one in found["per_request"]] == list(requests.request)
    per_kwh = 3.6e6 / found["gross_j_per_output_token"]
    assert found["output_tokens_per_kwh"] == pytest.approx(per_kwh)


def test_joules_per_token_are_those_of_the_server(server, files, report):
    requests, power = files()
    found = report("--requests", requests, "--power", power)
    check(found, server[0])
    assert not found["notes"]


def test_both_in_unix_time(server, files, report):
    requests, power = files(UNIX_S, UNIX_S)
    found = report("--requests", requests, "--power", power)
    check(found, server[0])
    # Times are those of the file.
    assert found["steady_state"]["start_s"] == pytest.approx(UNIX_S + 8, abs=2)


def test_requests_in_milliseconds_since_1970(server, files, report, tmp_path):
    requests, power = files(UNIX_S, UNIX_S)
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    for row in rows:
        row |= {name: row[name] and round(row[name] * 1e3) for name in TIMES}
    in_ms = tmp_path / "ms.jsonl"
    in_ms.write_text("\n".join(map(json.dumps, rows)))
    found = report("--requests", in_ms, "--power", power)
    check(found, server[0])
    assert "the times of the requests are read as ms since 1970" in found["notes"]


def test_an_offset_of_the_clocks(server, files, report):
    requests, power = files(5000.0, UNIX_S)
    offset_s = UNIX_S - 5000
    found = report("--requests", requests, "--power", power, "--time-offset", offset_s)
    check(found, server[0])
    assert found["steady_state"]["start_s"] == pytest.approx(5008, abs=2)


def test_idle_power_between_two_times(files, report):
    requests, power = files()
    before = report("--requests", requests, "--power", power, "--idle", "0.5:6")
    assert before["idle_j"] / before["duration_s"] == pytest.approx(70, rel=0.02)


def test_compressed_files(server, files, report, tmp_path):
    packed = []
    for path in files():
        packed.append(tmp_path / f"{path.name}.gz")
        packed[-1].write_bytes(gzip.compress(path.read_bytes()))
    check(report("--requests", packed[0], "--power", packed[1]), server[0])


def test_what_a_million_tokens_cost(files, report, monkeypatch):
    monkeypatch.setenv("JOULELAB_INTENSITY", "360")
    monkeypatch.setenv("JOULELAB_PRICE", "0.36")
    monkeypatch.setenv("JOULELAB_CURRENCY", "EUR")
    requests, power = files()
    found = report("--requests", requests, "--power", power)
    kwh = found["j_per_output_token"] * 1e6 / 3.6e6
    million = found["costs"]["output"]["costs_of_million_tokens"]
    assert million["carbon_g"] == pytest.approx(360 * kwh)
    assert million["price"] == pytest.approx(0.36 * kwh)
    assert million["price_low"] < million["price"] < million["price_high"]
    in_all = found["costs"]["all_gross"]["j_per_token"]
    tokens = found["input_tokens"] + found["output_tokens"]
    assert in_all == pytest.approx(found["gross_j"] / tokens)


def test_the_page(files, report, tmp_path):
    requests, power = files()
    page = tmp_path / "tokens.html"
    report("--requests", requests, "--power", power, "--html", page)
    assert "<h1>requests.jsonl</h1>" in page.read_text()


@pytest.fixture
def recording(server, tmp_path):
    """A recording of a meter that began at UNIX_S, when CLOCK_MONOTONIC showed 5000 s."""
    _, trace = server
    directory = tmp_path / "run"
    directory.mkdir()
    start_ns = 5000 * 10**9
    header = {
        "channels": [channel.to_json() for channel in trace.channels],
        "intervals_s": [0.05],
        "absent": [],
        "start_ns": start_ns,
        "start_unix_s": UNIX_S,
    }
    readings = trace.series[0]
    records = (
        pack(start_ns + int(t_ns), float(value), 0)
        for t_ns, value in zip(readings.t_ns, readings.value, strict=True)
    )
    (directory / READINGS_FILE).write_bytes(pack_header(header) + b"".join(records))
    (directory / EVENTS_FILE).write_text("")
    return directory


@pytest.mark.parametrize("shift_s", [UNIX_S, 5000.0])
def test_a_recording_has_unix_time_and_that_of_the_machine(
    server, files, report, recording, shift_s
):
    requests, _ = files(shift_s)
    found = report("--requests", requests, "--recording", recording)
    check(found, server[0])
    assert found["steady_state"]["start_s"] == pytest.approx(shift_s + 8, abs=2)


def test_requests_of_another_time_are_refused_with_both_extents(files, refuse):
    requests, power = files(UNIX_S + 7200, UNIX_S)
    error = refuse("--requests", requests, "--power", power)
    assert "from 2026-02-02 04:40:08 UTC to 2026-02-02 04:40:" in error
    assert "the readings from 2026-02-02 02:40:00 UTC" in error
    assert "if the requests were 2 h earlier" in error
    assert "--timezone" in error


def test_clocks_that_count_from_other_times_are_refused(files, refuse):
    requests, power = files(5000.0, UNIX_S)
    error = refuse("--requests", requests, "--power", power)
    assert "from 5008 s" in error
    assert "seconds since 1970" in error
    assert "--time-offset" in error


def test_requests_of_another_start_of_the_machine_are_refused(files, refuse, recording):
    requests, _ = files(90_000.0)
    error = refuse("--requests", requests, "--recording", recording)
    assert "the requests go from 90008 s" in error
    assert "the readings from 5000." in error
    assert "1970" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --power"),
        (["--power", "{power}", "--recording", "{folder}"], "give either --power"),
        (["--recording", "{folder}", "--idle", "0:5"], "are for --power"),
        (["--recording", "{folder}", "--power-unit", "W"], "are for --power"),
        (["--recording", "{folder}"], "is not a run"),
        (["--recording", "nowhere"], "there is no 'nowhere'"),
        (["--power", "{requests}"], "is JSON of no known tool"),
        (["--power", "{power}", "--idle", "idle"], "give START:STOP"),
        (["--power", "{power}", "--idle", "900:950"], "does not cover the idle"),
    ],
)
def test_what_cannot_be_is_one_line(files, refuse, tmp_path, arguments, message):
    requests, power = files()
    (tmp_path / "folder").mkdir()
    names = {"power": power, "requests": requests, "folder": tmp_path / "folder"}
    filled = [text.format(**names) for text in arguments]
    assert message in refuse("--requests", requests, *filled)


def test_requests_outside_of_the_recording_are_named(server, tmp_path):
    truth, trace = server
    readings = trace.series[0]
    middle_ns = int(truth.requests.start_s[15] * 1e9)
    kept = readings.t_ns >= middle_ns
    path = tmp_path / "power.csv"
    path.write_text(power_csv(Readings(readings.t_ns[kept], readings.value[kept])))
    source = PowerSource.of_log(read_logs([path]))
    placed = source.place(truth.requests, source.shift_s(truth.requests))
    outside = truth.requests.stop_s <= middle_ns * 1e-9
    assert len(placed) < len(truth.requests)
    assert not set(placed.request) & {
        name for name, is_outside in zip(truth.requests.request, outside, strict=True) if is_outside
    }
    left_out, cut = placed.notes
    assert "outside of the recording left out: 0, " in left_out
    assert "only partly within the recording" in cut


def test_a_log_without_readings_of_power_is_refused(server):
    _, trace = server
    empty = replace(trace, series=(Readings(np.zeros(0, np.int64), np.zeros(0)),))
    with pytest.raises(UserError, match="no readings of power"):
        _ = PowerSource(empty, 0.0, 0.0).extent_s


def test_nothing_is_cut_in_a_narrow_terminal(files, printed, monkeypatch):
    for name, value in (("COLUMNS", "80"), ("JOULELAB_COUNTRY", "DE"), ("JOULELAB_PRICE", "0.3"),
                        ("JOULELAB_CURRENCY", "EUR")):  # fmt: skip
        monkeypatch.setenv(name, value)
    requests, power = files()
    out = printed("llm", "report", "--requests", requests, "--power", power)
    assert "…" not in out
    for title in ("output token, without idle", "input token, without idle", "both, all energy"):
        assert f" {title} " in out
    assert "CO2e (95 % CI)" in out
    assert "EUR (" in out


def test_without_output_tokens_only_prefill_is_known(server):
    truth, trace = server
    requests = replace(truth.requests, output_tokens=np.zeros(len(truth.requests)))
    result = attribute(requests, trace)
    assert headline(result).endswith("per input token, without idle")
    assert "output token," not in headline(result)
    unknown = replace(result, cost=UNKNOWN_COST)
    assert headline(unknown) == "joules per token are unknown"


def test_requests_without_tokens_have_no_empty_table_or_figure(server, printed, tmp_path):
    truth, trace = server
    requests, power, page = tmp_path / "r.jsonl", tmp_path / "p.csv", tmp_path / "page.html"
    none = np.zeros(len(truth.requests))
    empty = replace(truth.requests, input_tokens=none, output_tokens=none, cached_tokens=none)
    write_requests(requests, empty)
    power.write_text(power_csv(trace.series[0]))
    out = printed("llm", "report", "--requests", requests, "--power", power, "--html", page)
    assert out.startswith("joules per token are unknown\n")
    assert "per request (median" in out
    assert "J per token" not in out
    text = page.read_text()
    assert "Power over time" in text
    assert "Steady state: " in text
    assert "All requests against the steady state" not in text
    assert "<table" not in text


def test_one_request_has_no_range_of_energies(server):
    truth, trace = server
    one = truth.requests.at(np.array([0]))
    result = attribute(one, trace)
    assert request_text(result) == f"{quantity(result.per_request.energy_j[0], 'J')} per request"


def test_the_command_line(files):
    requests, power = files()
    command = ("llm", "report", "--requests", requests, "--power", power)
    done = joulelab(*command)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "per output token and" in lines[0]
    assert "output tokens/s" in lines[1]
    assert ") in all, " in lines[2]
    assert "with 8 requests in flight" in lines[3]
    assert any("output token, all energy" in line for line in lines)
    assert any("per request (median; 5 % to 95 %" in line for line in lines)
    assert "output tokens per kWh, idle included." in lines[-1]
    requests.write_text("start_s\n")
    done = joulelab(*command)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "has no column 'first_token_s'" in done.stderr
