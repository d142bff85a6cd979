"""Request logs: the own format, those of load generators, and damaged ones."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.llm.request_files import read_requests, write_requests
from joulelab.llm.requests import RequestLog

DATA = Path(__file__).parent / "data"
HEADER = "request,start_s,first_token_s,stop_s,input_tokens,output_tokens,cached_tokens\n"
ROWS = "a,0.5,0.75,2.5,512,64,0\nb,1.0,1.25,3.0,100,32,96\n"
UNIX_S = 1_770_000_000.0


def read(tmp_path, text, name="requests.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_requests(path, **options)


def check_own(log):
    assert log.request == ("a", "b")
    assert log.start_s.tolist() == [0.5, 1.0]
    assert log.first_token_s.tolist() == [0.75, 1.25]
    assert log.stop_s.tolist() == [2.5, 3.0]
    assert log.input_tokens.tolist() == [512.0, 100.0]
    assert log.output_tokens.tolist() == [64.0, 32.0]
    assert log.cached_tokens.tolist() == [0.0, 96.0]
    assert log.window_s == (0.5, 3.0)


def test_own_csv(tmp_path):
    check_own(read(tmp_path, HEADER + ROWS))


def test_own_csv_compressed(tmp_path):
    check_own(read(tmp_path, gzip.compress((HEADER + ROWS).encode()), "requests.csv.gz"))


@pytest.mark.parametrize("join", ["\n", ","])
def test_own_json(tmp_path, join):
    names = HEADER.strip().split(",")
    objects = [
        json.dumps(
            {
                n: c if n == "request" else float(c)
                for n, c in zip(names, row.split(","), strict=True)
            }
        )
        for row in ROWS.splitlines()
    ]
    text = f"[{join.join(objects)}]" if join == "," else join.join(objects) + "\n"
    check_own(read(tmp_path, text, "requests.jsonl"))


def test_rows_that_are_not_in_order_are_sorted(tmp_path):
    check_own(read(tmp_path, HEADER + "".join(reversed(ROWS.splitlines(keepends=True)))))


def test_other_names_of_columns(tmp_path):
    header = HEADER.replace("start_s", "begin").replace("input_tokens", "prompt")
    check_own(read(tmp_path, header + ROWS, renamed={"begin": "start_s", "prompt": "input_tokens"}))


def test_dates_become_seconds_since_1970(tmp_path):
    text = (
        "start_s,first_token_s,stop_s,input_tokens,output_tokens\n"
        "2026-02-02T02:40:00,2026-02-02 02:40:00.5,2026-02-02T03:40:01+01:00,5,7\n"
    )
    log = read(tmp_path, text, timezone="UTC")
    assert log.request == ("1",)
    assert (log.start_s[0], log.first_token_s[0], log.stop_s[0]) == (
        UNIX_S, UNIX_S + 0.5, UNIX_S + 1,
    )  # fmt: skip


def test_names_identify_requests_only_if_they_differ(tmp_path):
    text = HEADER.replace("request", "name") + ROWS
    assert read(tmp_path, text).request == ("a", "b")
    assert read(tmp_path, text.replace("\nb", "\na")).request == ("1", "2")


def test_an_aborted_request_has_no_first_token(tmp_path):
    log = read(tmp_path, HEADER + ROWS + "c,2.0,,2.5,100,0,0\n")
    assert math.isnan(log.first_token_s[2])
    assert log.output_tokens[2] == 0
    assert not log.notes


def test_requests_that_were_not_streamed_are_noted(tmp_path):
    log = read(tmp_path, HEADER + ROWS + "c,2.0,,2.5,100,5,0\n")
    assert "1 request" in log.notes[0]
    assert "streaming" in log.notes[0]


times = st.floats(0, 1e9, allow_nan=False).map(lambda value: value + 1e-3)
tokens = st.integers(0, 10**6)


@given(
    st.lists(st.tuples(times, times, times, tokens, tokens, st.booleans()), min_size=1, max_size=9),
    st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1),
             min_size=9, max_size=9, unique_by=str.strip),
)  # fmt: skip
def test_what_is_written_is_read(tmp_path_factory, rows, names):
    start, first, stop = np.sort(np.array([row[:3] for row in rows]).reshape(-1, 3)).T
    inputs, outputs = (np.array([row[i] for row in rows], dtype=float) for i in (3, 4))
    first[[row[5] for row in rows]] = math.nan
    order = np.argsort(start, kind="stable")
    columns = [one[order] for one in (start, first, stop, inputs, outputs, inputs // 2)]
    log = RequestLog(tuple(f"r{name}" for name in names[: len(rows)]), *columns)
    path = tmp_path_factory.mktemp("log") / "requests.jsonl"
    write_requests(path, log)
    again = read_requests(path)
    assert again.request == log.request
    for name in ("start_s", "stop_s", "input_tokens", "output_tokens", "cached_tokens"):
        assert getattr(again, name).tolist() == getattr(log, name).tolist()
    np.testing.assert_array_equal(again.first_token_s, log.first_token_s)


# vLLM: the fields of vllm/benchmarks/serve.py (v0.11 and newer; start times are CLOCK_MONOTONIC).

VLLM = {
    "date": "20260202-024000",
    "backend": "openai",
    "request_rate": "inf",
    "max_concurrency": 2,
    "duration": 3.0,
    "completed": 2,
    "failed": 2,
    "total_input_tokens": 300,
    "request_throughput": 0.66,
    "input_lens": [100, 200, 300, 400],
    "output_lens": [3, 1, 0, 0],
    "ttfts": [0.25, 0.5, 0.25, 0.0],
    "itls": [[0.125, 0.125], [], [0.5], []],
    "start_times": [5000.0, 5000.5, 5001.0, 0.0],
    "generated_texts": ["a b c", "d", "", ""],
    "errors": ["", "", "ServerDisconnectedError", "ClientConnectorError"],
}


def test_vllm(tmp_path):
    log = read(tmp_path, json.dumps(VLLM), "openai-infqps.json")
    assert log.request == ("1", "2", "3")
    assert log.start_s.tolist() == [5000.0, 5000.5, 5001.0]
    assert log.first_token_s.tolist() == [5000.25, 5001.0, 5001.25]
    assert log.stop_s.tolist() == [5000.5, 5001.0, 5001.75]
    assert log.input_tokens.tolist() == [100.0, 200.0, 300.0]
    # The third failed after two chunks; the fourth never began.
    assert log.output_tokens.tolist() == [3.0, 1.0, 2.0]
    assert any("1 request that failed left out" in note for note in log.notes)
    assert any("for each chunk" in note for note in log.notes)


def test_vllm_with_appended_results(tmp_path):
    later = VLLM | {"start_times": [6000.0, 6000.5, 6001.0, 0.0], "latencies": [0.75, 0.5, 0, 0]}
    log = read(tmp_path, json.dumps(VLLM) + "\n" + json.dumps(later))
    assert log.request == ("1.1", "1.2", "1.3", "2.1", "2.2", "2.3")
    assert log.stop_s[3] == 6000.75


@pytest.mark.parametrize(
    ("left_out", "fix"),
    [
        ({"start_times"}, "update vLLM's benchmark"),
        (
            {"start_times", "input_lens", "output_lens", "ttfts", "itls", "errors"},
            "--save-detailed",
        ),
    ],
)
def test_vllm_without_what_is_needed(tmp_path, left_out, fix):
    result = {name: value for name, value in VLLM.items() if name not in left_out}
    with pytest.raises(UserError, match=fix):
        read(tmp_path, json.dumps(result))


# guidellm: the fields of guidellm/schemas, and of 0.3's benchmark/benchmark.py.


def guidellm(number, *, status="completed", first=0.25, tokens=(100, 20), **changes):
    start = UNIX_S + number
    timings = {
        "request_start": start,
        "first_token_iteration": None if first is None else start + first,
        "last_token_iteration": None if first is None else start + 2.0,
        "request_end": start + 2.25,
        "resolve_end": start + 2.5,
    }
    return {
        "request_id": f"id-{number}",
        "info": {"status": status, "timings": timings | changes},
        "prompt_tokens": tokens[0],
        "output_tokens": tokens[1],
        "input_metrics": {"total_tokens": tokens[0], "cached_tokens": 16 if tokens[0] else None},
    }


def report(*, successful=(), incomplete=(), errored=(), made=None):
    groups = {"successful": successful, "incomplete": incomplete, "errored": errored}
    total = sum(map(len, groups.values())) if made is None else made
    return {
        "type_": "generative_benchmark",
        "scheduler_metrics": {"requests_made": {"total": total}},
        "requests": {**{name: list(one) for name, one in groups.items()}, "total": None},
    }


def test_guidellm(tmp_path):
    benchmark = report(
        successful=[guidellm(1), guidellm(0)],
        incomplete=[guidellm(2, status="cancelled", tokens=(100, 5))],
        errored=[
            guidellm(3, status="errored", first=None, tokens=(None, None)),
            guidellm(4, first=None, request_start=None, request_end=None, resolve_end=None),
        ],
    )
    log = read(tmp_path, json.dumps({"metadata": {"version": 1}, "benchmarks": [benchmark]}))
    assert log.request == ("2", "1", "3", "4")
    assert (log.start_s - UNIX_S).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (log.stop_s - UNIX_S).tolist() == [2.0, 3.0, 4.0, 5.25]
    assert log.output_tokens.tolist() == [20.0, 20.0, 5.0, 0.0]
    assert log.cached_tokens.tolist() == [16.0, 16.0, 16.0, 0.0]
    assert any("left out" in note for note in log.notes)
    assert any("counted as 0" in note for note in log.notes)


def test_guidellm_of_03(tmp_path):
    one = {
        "type_": "generative_text_response",
        "request_id": "x",
        "prompt_tokens": 100,
        "output_tokens": 20,
        "start_time": UNIX_S,
        "end_time": UNIX_S + 3,
        "first_token_time": UNIX_S + 0.5,
        "last_token_time": UNIX_S + 2,
    }
    benchmark = {"requests": {"successful": [one], "errored": [], "incomplete": [], "total": None}}
    log = read(tmp_path, json.dumps({"benchmarks": [benchmark]}))
    assert [log.start_s[0], log.first_token_s[0], log.stop_s[0]] == [
        UNIX_S, UNIX_S + 0.5, UNIX_S + 2,
    ]  # fmt: skip


def test_guidellm_with_several_benchmarks(tmp_path):
    two = [report(successful=[guidellm(0)]), report(successful=[guidellm(9)])]
    log = read(tmp_path, json.dumps({"benchmarks": two}))
    assert log.request == ("1.1", "2.1")
    assert "2 benchmarks are taken together" in log.notes[0]


def test_guidellm_with_a_sample_of_its_requests(tmp_path):
    with pytest.raises(UserError, match=r"lists 1 of 40 requests.*--sample-requests"):
        read(tmp_path, json.dumps({"benchmarks": [report(successful=[guidellm(0)], made=40)]}))


def test_guidellm_without_its_warm_up(tmp_path):
    listed = [guidellm(i) for i in range(19)]
    log = read(tmp_path, json.dumps({"benchmarks": [report(successful=listed, made=20)]}))
    assert "1 request of the warm-up" in log.notes[0]


def test_guidellm_as_yaml(tmp_path):
    with pytest.raises(UserError, match="is YAML; give guidellm's report as JSON"):
        read(tmp_path, "args:\n  target: http://localhost\nbenchmarks: []\n", "benchmarks.yaml")


# aiperf: the records of docs/tutorials/working-with-profile-exports.md.


def aiperf(number, *, error=None, **metrics):
    values = {
        "input_sequence_length": {"value": 550, "unit": "tokens"},
        "time_to_first_token": {"value": 255.5, "unit": "ms"},
        "output_sequence_length": {"value": 9, "unit": "tokens"},
        "inter_chunk_latency": {"value": [4.5, 5.25], "unit": "ms"},
    }
    start_ns = 1_770_000_000_000_000_000 + number * 10**9
    return {
        "metadata": {
            "session_num": number,
            "x_request_id": f"id-{number}",
            "request_start_ns": start_ns,
            "request_end_ns": start_ns + 500_000_000,
            "was_cancelled": bool(error),
        },
        "metrics": metrics or values,
        "error": error,
    }


def test_aiperf(tmp_path):
    cancelled = {"code": 499, "type": "RequestCancellationError", "message": "cancelled"}
    records = [
        aiperf(0),
        aiperf(1, error=cancelled, error_isl={"value": 550, "unit": "tokens"}),
        aiperf(2, error=cancelled, other={}),
    ]
    text = "".join(json.dumps(one) + "\n" for one in records)
    log = read(tmp_path, text, "profile_export.jsonl")
    assert log.request == ("id-0", "id-1", "id-2")
    assert (log.start_s - UNIX_S).tolist() == [0.0, 1.0, 2.0]
    assert log.first_token_s[0] - UNIX_S == pytest.approx(0.2555, abs=1e-6)
    assert (log.stop_s - UNIX_S).tolist() == [0.5, 1.5, 2.5]
    assert log.input_tokens.tolist() == [550.0, 550.0, 0.0]
    assert log.output_tokens.tolist() == [9.0, 0.0, 0.0]
    assert any("counted as 0" in note for note in log.notes)


def test_aiperf_prefers_what_the_server_counted(tmp_path):
    one = aiperf(0)
    for name, value in (("prompt_tokens", 580), ("completion_tokens", 10),
                        ("prompt_cache_read_tokens", 512)):  # fmt: skip
        one["metrics"][f"usage_{name}"] = {"value": value, "unit": "tokens"}
    log = read(tmp_path, json.dumps(one) + "\n")
    assert (log.input_tokens[0], log.output_tokens[0], log.cached_tokens[0]) == (580, 10, 512)


def test_aiperf_that_was_killed(tmp_path):
    text = json.dumps(aiperf(0)) + "\n" + json.dumps(aiperf(1))[:-30]
    log = read(tmp_path, text)
    assert log.request == ("id-0",)
    assert "cut short" in log.notes[0]


def test_the_summary_of_aiperf(tmp_path):
    summary = {"request_throughput": {"unit": "requests/sec", "avg": 2.0}, "input_config": {}}
    with pytest.raises(UserError, match=r"give profile_export.jsonl"):
        read(tmp_path, json.dumps(summary, indent=1))


# Logs that these tools wrote here, see data/README.md.


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("guidellm.json", [70] * 4, [8] * 4),
        ("guidellm_cancelled.json", [40, 40], [1, 0]),
        ("aiperf.jsonl", [40] * 7, [8] * 7),
        ("vllm.json", [128] * 3, [8, 6, 4]),
    ],
)
def test_logs_of_load_generators(name, inputs, outputs):
    log = read_requests(DATA / name)
    assert log.input_tokens.tolist() == inputs
    assert log.output_tokens.tolist() == outputs
    has_token = log.output_tokens > 0
    assert np.isnan(log.first_token_s[~has_token]).all()
    assert (log.start_s <= log.stop_s).all()
    assert (log.start_s < log.first_token_s)[has_token].all()
    assert (log.first_token_s <= log.stop_s)[has_token].all()
    assert (np.diff(log.start_s) >= 0).all()
    assert log.window_s[1] - log.window_s[0] < 10


def test_a_log_of_an_older_vllm():
    with pytest.raises(UserError, match=r"vllm_without_starts.json.*update vLLM's benchmark"):
        read_requests(DATA / "vllm_without_starts.json")


# Damage.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no data"),
        (HEADER, "has no requests"),
        ("{}", "has no column 'start_s', 'first_token_s'"),
        ("[1, 2]", "its JSON is not of objects"),
        ('{"start_s": 1', "damaged from line 1"),
        ('{"a": 1}\n{"b": ]}\n{"c": 3}\n', "damaged from line 2"),
        ("[" * 100_000, "nested too deeply"),
        (HEADER.replace("stop_s,", "") + "a,1,2,3,4,0\n", "has no column 'stop_s'.*--rename"),
        (HEADER + ROWS + "c,5,6,4.5,1,1,0\n", "row 3: the request stops before it starts"),
        (HEADER + ROWS + "c,5,4.5,6,1,1,0\n", "row 3: the first token comes before"),
        (HEADER + ROWS + "c,5,7,6,1,1,0\n", "row 3: the first token comes after"),
        (HEADER + ROWS + "c,nan,6,7,1,1,0\n", "row 3: start_s is empty"),
        (HEADER + ROWS + "c,5,x,7,1,1,0\n", "row 3: first_token_s is 'x', which is no number"),
        (HEADER + ROWS + "c,5,6,inf,1,1,0\n", "row 3: stop_s is 'inf'"),
        (HEADER + ROWS + "c,5,6,7,,1,0\n", "row 3: input_tokens is empty"),
        (HEADER + ROWS + "c,5,6,7,-1,1,0\n", "row 3: the input tokens are no count: found -1"),
        (HEADER + ROWS + "c,5,6,7,1,1.5,0\n", "row 3: the output tokens are no count"),
        (HEADER + ROWS + "c,5,6,7,1,1e12,0\n", "row 3: the output tokens are no count"),
        (HEADER + ROWS + "c,5,6,7,10,1,11\n", "row 3: more tokens are cached"),
        (HEADER + ROWS + "b,5,6,7,1,1,0\n", "'b' is there twice: in row 2 and row 3"),
        (HEADER + ROWS + "c,5,6\n", "row 3 has fewer columns"),
        ("time,power [W]\n0,100\n1,101\n2,99\n", "is a log of power.*--power"),
        (json.dumps(VLLM | {"ttfts": [0.1]}), "of different lengths"),
        (json.dumps(VLLM | {"output_lens": [3, -1, 0, 0]}), "output_lens"),
        (json.dumps(VLLM | {"itls": [["x"], [], [], []]}), "itls"),
        (json.dumps({"benchmarks": [{"requests": None}]}), "not a log of guidellm as known"),
        (json.dumps({"benchmarks": [3]}), "not a log of guidellm as known"),
        (
            json.dumps({"benchmarks": [report(successful=[guidellm(0, tokens=(None, 3))])]}),
            "request 1 has no numbers of tokens",
        ),
        (json.dumps(aiperf(0, other={})), "request 1 has no numbers of tokens"),
        (
            json.dumps(aiperf(0, time_to_first_token={"value": 1, "unit": "parsec"})),
            "'parsec' of time_to_first_token is unknown",
        ),
    ],
)  # fmt: skip
def test_damaged_logs_are_one_clear_error(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "requests.csv" in str(caught.value)


def test_columns_of_other_formats_cannot_be_renamed(tmp_path):
    with pytest.raises(UserError, match="no columns to rename"):
        read(tmp_path, json.dumps(VLLM), renamed={"a": "b"})


def test_a_gzip_bomb_is_refused(tmp_path):
    bomb = gzip.compress(b"start_s," + b"0" * 2_000_000)
    with pytest.raises(UserError, match="more than 100,000 characters"):
        read(tmp_path, bomb, "requests.csv.gz")


@pytest.mark.parametrize(
    ("scale", "began_s"),
    [(1e6, 1_200.0), (1e9, 1_200.0), (1e3, 1_200_000.0), (1e9, 3_000_000.0)],
    ids=["us", "ns", "ms", "ns of a month"],
)
def test_times_since_a_machine_started_are_no_dates(tmp_path, scale, began_s):
    """1.2e9 microseconds are 20 minutes of a monotonic clock, or seconds until 2008."""
    rows = [
        f"{i},{start:.0f},{start + 0.1 * scale:.0f},{start + 0.2 * scale:.0f},100,20,0"
        for i in range(9)
        for start in [scale * (began_s + 0.4 * i)]
    ]
    with pytest.raises(UserError, match="the unit of its times is unknown"):
        read(tmp_path, HEADER + "\n".join(rows))


@pytest.mark.parametrize("apart_s", [0.4, 60.0, 3600.0])
def test_dates_of_rare_requests_are_read(tmp_path, apart_s):
    rows = [f"{i},{s},{s + 0.5},{s + 9},100,20,0" for i in range(9) for s in [UNIX_S + apart_s * i]]
    assert read(tmp_path, HEADER + "\n".join(rows)).start_s[-1] == UNIX_S + 8 * apart_s


@pytest.mark.parametrize("start_s", ["0", "-1770000000", "5.5", "9e9"])
def test_a_request_without_its_time_among_dates_is_refused(tmp_path, start_s):
    rows = [f"{i},{UNIX_S + i},,{UNIX_S + i + 2},100,20,0" for i in range(9)]
    rows.append(f"x,{start_s},,{float(start_s) + UNIX_S},100,20,0")
    with pytest.raises(UserError, match="row 10: the request starts at no time since 1970"):
        read(tmp_path, HEADER + "\n".join(rows))
