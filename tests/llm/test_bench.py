"""``joulelab llm bench`` on servers whose costs are known, and on a real one."""

import json
import math
import os
import re
import signal
import time

import numpy as np
import pytest
from simulated_server import PowerFile

from joulelab.errors import UserError
from joulelab.format import quantity
from joulelab.llm import bench as bench_module
from joulelab.llm import level_analysis, power_fit
from joulelab.llm.bench import BenchOptions, is_this_machine, run_bench
from joulelab.llm.level_analysis import tokens_in
from joulelab.llm.load import Extent, Level
from joulelab.llm.openai_client import OpenAIClient, ServerError
from joulelab.llm.prompts import Lengths
from joulelab.llm.requests import RequestLog
from joulelab.recording.trace import read_trace


@pytest.fixture(autouse=True)
def short_pause(monkeypatch):
    """Shorten the pause between levels, to a little more than readings are late."""
    for module in (level_analysis, power_fit):
        monkeypatch.setattr(module, "MARGIN_S", 0.5)
    monkeypatch.setattr(bench_module, "PAUSE_S", 1.0)


def bench(url, out, *concurrencies, requests=8, watch=lambda *_: None):
    options = BenchOptions(
        levels=tuple(Level(concurrency=one) for one in concurrencies),
        extent=Extent(requests=requests),
        inputs=Lengths(60, 60),
        outputs=Lengths(12, 12),
        idle_s=0.5,
        is_measured=False,
    )
    return run_bench(OpenAIClient(url), options, out, watch=watch)


def lines_of(out):
    return (out / "requests.jsonl").read_text().splitlines()


def truth_of(out, level, power_file):
    """Return how long the requests of a level took, and what the server drew in that time."""
    rows = [json.loads(line) for line in lines_of(out)]
    rows = [row for row in rows if row["level"] == level]
    header = read_trace(out).header
    zero_s = header["start_unix_s"] - header["start_ns"] * 1e-9
    start_s, stop_s = min(row["start_s"] for row in rows), max(row["stop_s"] for row in rows)
    power = PowerFile(power_file)
    power.update()
    return stop_s - start_s, power.energy_j(start_s - zero_s, stop_s - zero_s)


def test_energies_of_a_known_server_from_load_to_report(simulated_server, tmp_path, printed):
    """A step costs 4 J however many it decodes, so a token is cheaper at a higher concurrency."""
    url = simulated_server(output_j=0.5, prompt_j=0.02, step_j=4.0, step_s=0.02)
    out = tmp_path / "out"
    output = printed(
        "llm", "bench", url + "/v1", "--concurrency", "1,4", "--requests", 12,
        "--input-tokens", 64, "--output-tokens", 8, "--idle", 1, "--out", out, "--json",
    )  # fmt: skip
    found = json.loads(output)
    assert found == json.loads((out / "result.json").read_text())
    one, four = found["levels"]
    for level in (one, four):
        assert (level["requests"], level["failures"], level["notes"]) == (12, {}, [])
        assert (level["input_tokens"], level["output_tokens"]) == (12 * 64, 12 * 8)
        assert level["time_to_first_token_s"]["p50"] > 0.02
        assert level["inter_token_latency_s"]["p50"] > 0.02
        length_s, gross_j = truth_of(out, level["level"], tmp_path / "power")
        assert level["duration_s"] == pytest.approx(length_s, abs=1e-3)
        assert level["energy"]["gross_j"] == pytest.approx(gross_j, rel=0.02)
    # A prompt and 7 further tokens: 8 steps. The first token comes with the prompt.
    alone_j = 64 * 0.02 + 7 * 0.5 + 8 * 4.0
    assert one["energy"]["net_j"] / 12 == pytest.approx(alone_j, rel=0.03)
    # A machine that stalls the server adds idle power to both.
    if one["energy"]["gross_j"] > 1.5 * four["energy"]["gross_j"]:
        assert found["knee"]["concurrency"] == 4
        assert found["headline"].startswith("A token is cheapest at concurrency 4: ")
        assert one["gross_j_per_output_token"] > 1.2 * four["gross_j_per_output_token"]
    # The page states what the first line of the output does: the values of the best level.
    page = (out / "report.html").read_text()
    best = four if found["knee"]["concurrency"] == 4 else one
    shown = [best["level"], quantity(best["gross_j_per_output_token"], "J")]
    assert re.findall("<dd>(.*?)</dd>", page)[:2] == shown
    assert any("pauses between the levels" in note for note in found["notes"])
    names = [span.name for span in read_trace(out).spans]
    assert names == ["idle", "warm-up", "level", "level", "idle"]

    output = printed(
        "llm", "report", "--requests", out / "requests.jsonl", "--recording", out, "--json"
    )
    report = json.loads(output)
    for name in ("requests", "output_tokens", "gross_j", "net_j", "j_per_output_token"):
        assert report[name] == pytest.approx(found[name], rel=1e-6)
    levels = [json.loads(line)["level"] for line in lines_of(out)]
    assert levels == ["concurrency 1"] * 12 + ["concurrency 4"] * 12


def test_table_has_a_row_for_each_level(simulated_server, tmp_path, run):
    url = simulated_server(step_s=0.002)
    code, output, errors = run(
        "llm", "bench", url, "--concurrency", 2, "--rate", 50, "--requests", 6,
        "--input-tokens", "20-40", "--output-tokens", 4, "--no-energy", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors
    assert output.startswith("The server generates ")
    rows = [line.split()[:2] for line in output.splitlines()]
    assert ["concurrency", "2"] in rows
    assert ["50", "requests/s"] in rows
    assert "No energy was measured." in output
    assert [line for line in errors.splitlines() if line.startswith("concurrency")]


def test_without_energy_requests_have_unix_times(simulated_server, tmp_path):
    before_s = time.time()
    url = simulated_server(step_s=0.002)
    result = bench(url, tmp_path / "out", 2)
    rows = [json.loads(line) for line in lines_of(tmp_path / "out")]
    assert len(rows) == 8
    assert all(before_s < row["start_s"] < row["stop_s"] < time.time() for row in rows)
    assert result.total is None
    assert result.to_json()["levels"][0]["energy"] is None
    assert not (tmp_path / "out" / "trace.bin").exists()


def test_failures_are_counted_and_what_they_cost_is_kept(simulated_server, tmp_path):
    url = simulated_server(step_s=0.002, break_every=5, end_early_every=7)
    result = bench(url, tmp_path / "out", 2, requests=20)
    (level,) = result.levels
    (reason,) = level.failures
    assert reason == "the server closed the connection before the end of the reply"
    assert 3 <= level.failures[reason] <= 5
    assert len(level.requests) == 20
    assert any(reason in note for note in level.notes)
    assert any("before the requested length" in note for note in level.notes)
    # What a broken request had generated is in its log.
    assert 0 < min(level.requests.output_tokens) < 12


def test_refused_requests_are_counted_but_cost_nothing(simulated_server, tmp_path):
    url = simulated_server(step_s=0.002, fail_every=6)
    (level,) = bench(url, tmp_path / "out", 2, requests=20).levels
    refused = sum(level.failures.values())
    assert refused > 0
    assert len(level.requests) == 20 - refused
    assert all("HTTP 500" in one for one in level.failures)


def test_tokens_are_counted_where_the_server_does_not(simulated_server, tmp_path):
    url = simulated_server(step_s=0.002, has_usage=False, has_metrics=False)
    (level,) = bench(url, tmp_path / "out", 1, requests=3).levels
    assert level.requests.output_tokens.tolist() == [12, 12, 12]
    assert level.requests.input_tokens.tolist() == [60, 60, 60]
    assert any("chunks were counted" in note for note in level.notes)


def test_ctrl_c_keeps_what_is_finished(simulated_server, tmp_path):
    url = simulated_server(step_s=0.005)

    def watch(stage, load):
        if stage == "concurrency 2" and load.replies:
            os.kill(os.getpid(), signal.SIGINT)

    result = bench(url, tmp_path / "out", 2, 4, requests=10**6, watch=watch)
    assert result.is_interrupted
    (level,) = result.levels
    assert level.failures == {"interrupted": 2}
    assert len(level.requests) > 2
    assert (tmp_path / "out" / "result.json").exists()


def test_ctrl_c_before_the_first_level_is_an_interruption(simulated_server, tmp_path):
    url = simulated_server(step_s=0.005)

    def watch(stage, load):
        if stage == "warm-up":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        bench(url, tmp_path / "out", 2, watch=watch)


def test_open_loop_without_an_arrival_is_one_error(simulated_server, tmp_path, run):
    url = simulated_server(step_s=0.002)
    code, _, errors = run(
        "llm", "bench", url, "--rate", 1e-6, "--duration", 0.05, "--no-energy",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert errors.splitlines()[-1].startswith("joulelab: no request arrived; give a higher")


def test_level_without_an_arrival_has_a_note_and_no_values(simulated_server, tmp_path):
    options = BenchOptions(
        levels=(Level(concurrency=1), Level(rate_per_s=1e-6)),
        extent=Extent(duration_s=0.2),
        inputs=Lengths(60, 60),
        outputs=Lengths(2, 2),
        is_measured=False,
    )
    result = run_bench(OpenAIClient(simulated_server(step_s=0.002)), options, tmp_path / "out")
    some, none = result.to_json()["levels"]
    assert some["requests"] > 0
    assert (none["requests"], none["output_tokens_per_s"]) == (0, None)
    assert "no request arrived" in none["notes"]
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result.to_json()


def test_server_that_fails_every_request_is_one_error(simulated_server, tmp_path, run):
    url = simulated_server(fail_every=1)
    code, _, errors = run("llm", "bench", url, "--out", tmp_path / "out")
    assert code == 1
    assert errors.splitlines()[-1].startswith("joulelab: ")
    assert "HTTP 500" in errors
    assert not (tmp_path / "out").exists()


def test_prompts_that_the_server_refuses_are_one_error_before_anything_is_written(
    simulated_server, tmp_path
):
    url = simulated_server(fail_every=4)  # After a first request and two that count tokens.
    with pytest.raises(ServerError, match=r"a first request failed: HTTP 500"):
        bench(url, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_directory_with_content_is_refused(tmp_path):
    (tmp_path / "old").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        bench("localhost:9", tmp_path, 1)


def test_server_that_is_not_there_leaves_nothing(tmp_path):
    with pytest.raises(ServerError, match="no server answers"):
        bench("127.0.0.1:9", tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    [
        ("--concurrency", "0"),
        ("--concurrency", "1,x"),
        ("--rate", "inf"),
        ("--input-tokens", "9-3"),
        ("--requests", "3", "--duration", "3"),
        ("--shared-prefix", "512"),
    ],
)
def test_wrong_options_are_one_error(tmp_path, refused, given):
    refused("llm", "bench", "localhost", "--out", tmp_path / "o", *given)


def test_own_addresses_are_recognised():
    assert is_this_machine("localhost")
    assert is_this_machine("127.0.0.1")
    assert is_this_machine("::1")
    assert not is_this_machine("192.0.2.7")  # RFC 5737: of no machine.


def test_tokens_are_spread_over_the_time_of_their_request():
    log = RequestLog(
        request=("1", "2"),
        start_s=np.array([0.0, 2.0]),
        first_token_s=np.array([1.0, math.nan]),
        stop_s=np.array([4.0, 3.0]),
        input_tokens=np.array([9.0, 9.0]),
        output_tokens=np.array([40.0, 7.0]),
        cached_tokens=np.zeros(2),
    )
    assert tokens_in(log, np.array([0.0, 2.0, 3.0, 9.0])).tolist() == [20.0, 17.0, 10.0]
