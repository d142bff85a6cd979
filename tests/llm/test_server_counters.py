import math

import numpy as np
import pytest

from joulelab.llm.requests import RequestLog
from joulelab.llm.server_counters import (
    ServerCounters,
    disagreements,
    parse_counters,
    reply_counts,
)

# Lines as llama.cpp's server of November 2026 prints them (xllamacpp 2026.10.11549).
LLAMA = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 37
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 3
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total 0.887911
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 24
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
"""
# Names and labels from vllm/v1/metrics/loggers.py, on two engines.
VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a/b"} 3.0
vllm:num_requests_running{engine="1",model_name="a/b"} 4.0
vllm:prompt_tokens_total{engine="0",model_name="a/b"} 1.0e+06
vllm:prompt_tokens_total{engine="1",model_name="a/b"} 500.0
vllm:prompt_tokens_created{engine="0",model_name="a/b"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="a/b"} 400.0
vllm:generation_tokens_total{engine="0",model_name="a/b"} 7000.0
"""
# Names from sglang/srt/observability/metrics_collector.py; nothing has been cached yet.
SGLANG = """\
sglang:num_running_reqs{engine_type="unified",model_name="a",tp_rank="0"} 2.0
sglang:prompt_tokens_total{model_name="a"} 900.0
sglang:generation_tokens_total{model_name="a"} 80.0
"""
# Names from text-generation-inference's router/src/server.rs.
TGI = """\
tgi_batch_current_size 5
tgi_request_input_length_sum 120
tgi_request_input_length_count 3
tgi_request_generated_tokens_sum 66
"""


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (LLAMA, ServerCounters("llama.cpp", 40, 37, 3, 24, 1)),
        (VLLM, ServerCounters("vLLM", 1000500, 1000100, 400, 7000, 7)),
        (SGLANG, ServerCounters("SGLang", 900, math.nan, math.nan, 80, 2)),
        (TGI, ServerCounters("Text Generation Inference", 120, math.nan, math.nan, 66, 5)),
        ("process_cpu_seconds_total 3\n", None),
        ("", None),
        ('[{"numActiveRequests": 1}]', None),
    ],
)
def test_counts_of_each_server(page, expected):
    # Without its cache, NaN equals nothing: compare what is printed.
    assert repr(parse_counters(page)) == repr(_floats(expected))


def _floats(counters):
    if counters is None:
        return None
    names = ServerCounters.__slots__[1:]
    return ServerCounters(counters.source, *(float(getattr(counters, name)) for name in names))


def test_a_newer_vllm_counts_cached_tokens_once():
    page = VLLM + 'vllm:prompt_tokens_cached_total{engine="0",model_name="a/b"} 250.0\n'
    assert parse_counters(page).cached_tokens == 250


def test_an_older_llama_states_only_what_it_computed():
    page = "\n".join(line for line in LLAMA.splitlines() if "cached" not in line)
    counters = parse_counters(page)
    assert counters.computed_tokens == 37
    assert math.isnan(counters.prompt_tokens)
    assert math.isnan(counters.cached_tokens)


def log(inputs, outputs, cached=0.0):
    """Make two requests with these totals."""
    zero = np.zeros(2)
    return RequestLog(
        request=("0", "1"),
        start_s=zero,
        first_token_s=zero + 0.1,
        stop_s=zero + 1.0,
        input_tokens=np.array([inputs, 0.0]),
        output_tokens=np.array([outputs, 0.0]),
        cached_tokens=np.array([cached, 0.0]),
    )


def counters(prompt, generation, cached=0.0, source="vLLM"):
    return ServerCounters(source, prompt, prompt - cached, cached, generation, 0.0)


START = counters(5000, 700, 50)


@pytest.mark.parametrize(
    ("requests", "after", "expected"),
    [
        (log(1000, 200), counters(6000, 900, 50), ()),
        (log(1000, 200), counters(6009, 902, 50), ()),
        (
            log(1000, 200),
            counters(6000, 910, 50),
            (
                "vLLM counted 210 output tokens and the client 200 (+5.00 %). "
                "Likely reasons: other clients, or tokens that it did not send.",
            ),
        ),
        (
            log(1000, 200),
            counters(6000, 5700, 50),
            (
                "vLLM counted 5,000 output tokens and the client 200 (25.0 times). "
                "Likely reasons: other clients, or tokens that it did not send.",
            ),
        ),
        (
            log(1000, 200),
            counters(5900, 900, 50),
            (
                "vLLM counted 900 input tokens and the client 1,000 (-10.0 %). "
                "Likely reasons: requests that it has not counted, or counts that the client "
                "estimated.",
            ),
        ),
        (
            log(1000, 200),
            counters(6000, 900, 450),
            ("vLLM took 400 input tokens from its cache; its replies state none.",),
        ),
        (
            log(1000, 200, cached=300),
            counters(6000, 900, 450),
            ("vLLM took 400 input tokens from its cache; its replies state 300.",),
        ),
        (log(1000, 200, cached=400), counters(6000, 900, 450), ()),
        (
            log(1000, 200),
            counters(10, 20),
            ("vLLM was restarted in between, so its counters were not compared.",),
        ),
        (
            log(0, 0),
            counters(6000, 700, 50),
            (
                "vLLM counted 1,000 input tokens and the client 0. "
                "Likely reasons: other clients, or tokens that it did not send.",
            ),
        ),
    ],
)
def test_disagreements(requests, after, expected):
    assert disagreements(requests, START, after) == expected


def test_an_older_llama_is_compared_without_its_cache():
    start, stop = (
        ServerCounters("llama.cpp", math.nan, value, math.nan, value, 0.0) for value in (0, 90)
    )
    assert disagreements(log(100, 90, cached=10), start, stop) == ()
    (note,) = disagreements(log(100, 90), start, stop)
    assert note.startswith("llama.cpp counted 90 input tokens outside its cache and the client 100")


def test_no_counters_is_one_note():
    for before, after in ((None, START), (START, None), (START, counters(1, 1, source="SGLang"))):
        (note,) = disagreements(log(1000, 200), before, after)
        assert "no counters of its own" in note


def test_counts_in_the_replies_of_servers():
    timings = {"cache_n": 3, "prompt_n": 1, "predicted_n": 8}
    usage = {
        "completion_tokens": 8,
        "prompt_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert reply_counts({"usage": usage, "timings": timings}) == (4, 3, 8)
    assert reply_counts({"timings": timings}) == (4, 3, 8)
    assert reply_counts({"usage": usage}) == (4, 3, 8)


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"usage": None},
        {"usage": {"prompt_tokens": None, "prompt_tokens_details": None}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": "8"}, "timings": [1]},
        {"usage": {"prompt_tokens": True}},
    ],
)
def test_what_a_reply_does_not_state_is_not_a_number(reply):
    assert all(math.isnan(value) for value in reply_counts(reply))
