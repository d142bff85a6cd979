"""Measure how much a meter slows a launch-bound training loop, interleaved in one process.

Recording is compared with nothing in blocks long enough for the recorder to wake many times. What
one span per step adds to recording is measured in alternating slices of a few steps, so both see
the same other work on the machine. The work of the spans' thread, usually done for a quarter of a
second's spans at a time, is done and timed here instead, and counts in full.

``python -m benchmarks.slowdown SETTINGS`` with SETTINGS in JSON prints the result as JSON on its
last line. Needs torch.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import joulelab
from joulelab.models.registry import build_model

CONDITIONS = ("nothing", "nothing again", "recording")
SPANS = "one span per step, relative to recording"
MANY_SPANS = "1,000 spans per second, relative to recording"
SLICE_STEPS = 5
SLICES = 4000
SLICES_PER_FLUSH = 50
"""Spans are transferred after as many as occur in a quarter of a second at 1 ms per step."""

GPU_BATCH, CPU_BATCH = 128, 1
RESAMPLES = 2000


def main(arguments: list[str]) -> None:
    print(json.dumps(measure(**json.loads(arguments[0]))), flush=True)


def measure(
    *,
    rounds: int,
    block_s: float,
    sensors: Sequence[str] | None = None,
    slices: int = SLICES,
) -> dict[str, Any]:
    """Time blocks of LeNet's training steps, each condition once per round in random order.

    Args:
        rounds: Number of blocks of each condition.
        block_s: Approximate duration of a block.
        sensors: Sensors of the meter; ``None`` for all.
        slices: Number of slices with spans, and of slices without.

    Returns:
        ``device, batch_size, step_s, steps, rounds`` and ``ratios``: for each condition but
        ``nothing`` the median over rounds of its time over that of ``nothing``, and for spans the
        median over pairs of slices of the time with over that without, as measured and for 1,000
        spans per second of the loop, each with its 95 % interval by the percentile bootstrap:
        ``{"ratio", "low", "high"}``.
    """
    step, synchronize, about = _training()
    steps = _steps_in(step, synchronize, block_s)
    rng = random.Random(1)
    seconds: dict[str, list[float]] = {condition: [] for condition in CONDITIONS}
    for _ in range(rounds):
        for condition in rng.sample(CONDITIONS, len(CONDITIONS)):
            seconds[condition].append(_block_s(condition, step, synchronize, steps, sensors))
    base_s = np.array(seconds["nothing"])
    ratios = {name: interval(np.array(seconds[name]) / base_s) for name in CONDITIONS[1:]}
    with_s, without_s = _spans_and_none(step, synchronize, sensors, slices, rng)
    ratios[SPANS] = interval(with_s / without_s)
    ratios[MANY_SPANS] = interval(1 + 1000 * (with_s - without_s) / SLICE_STEPS)
    step_s = float(np.median(base_s)) / steps
    return {**about, "step_s": step_s, "steps": steps, "rounds": rounds, "ratios": ratios}


def interval(ratios: NDArray[np.float64]) -> dict[str, float]:
    """Return the median and its 95 % interval by the percentile bootstrap."""
    rng = np.random.default_rng(1)
    resampled = np.median(rng.choice(ratios, (RESAMPLES, ratios.size)), axis=1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return {"ratio": float(np.median(ratios)), "low": float(low), "high": float(high)}


def _block_s(
    condition: str,
    step: Callable[[], None],
    synchronize: Callable[[], None],
    steps: int,
    sensors: Sequence[str] | None,
) -> float:
    """Return the time of a block, without opening and closing the meter."""
    with contextlib.ExitStack() as stack:
        if condition == "recording":
            stack.enter_context(joulelab.Meter(sensors=sensors))
        for _ in range(steps // 20 + 1):
            step()
        synchronize()
        start_s = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize()
        return time.perf_counter() - start_s


def _spans_and_none(
    step: Callable[[], None],
    synchronize: Callable[[], None],
    sensors: Sequence[str] | None,
    slices: int,
    rng: random.Random,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the times of slices with one span per step, and of adjacent slices without."""
    with joulelab.Meter(sensors=sensors) as meter:
        log = _without_thread(meter)

        def with_spans() -> None:
            for index in range(SLICE_STEPS):
                with meter.span("step", index=index):
                    step()

        def without() -> None:
            for _ in range(SLICE_STEPS):
                step()

        seconds: dict[Callable[[], None], list[float]] = {with_spans: [], without: []}
        flush_s = []
        for index in range(slices):
            for work in rng.sample((with_spans, without), 2):
                start_s = time.perf_counter()
                work()
                synchronize()
                seconds[work].append(time.perf_counter() - start_s)
            if index % SLICES_PER_FLUSH == SLICES_PER_FLUSH - 1:
                start_s = time.perf_counter()
                log.record_reference()
                log.flush()
                flush_s.append((time.perf_counter() - start_s) / SLICES_PER_FLUSH)
    return np.array(seconds[with_spans]) + np.median(flush_s), np.array(seconds[without])


def span_costs(steps: int, sensors: Sequence[str] | None = None) -> dict[str, float]:
    """Return the median time of beginning and ending a span, and of CUDA's calls for it, in µs.

    A training step precedes each, so that none of its code and data is in the processor's caches.
    Without a GPU there are no such calls.
    """
    step, synchronize, _ = _training()
    found: dict[str, float] = {}
    with joulelab.Meter(sensors=sensors) as meter:
        log = _without_thread(meter)
        log.flush()
        clock = log.device

        def timed_span() -> float:
            span = meter.span("step")
            first_ns = time.perf_counter_ns()
            span.__enter__()
            begun_ns = time.perf_counter_ns()
            step()
            end_ns = time.perf_counter_ns()
            span.__exit__()
            return begun_ns - first_ns + time.perf_counter_ns() - end_ns

        def flush() -> float:
            synchronize()
            start_ns = time.perf_counter_ns()
            log.record_reference()
            log.flush()
            return (time.perf_counter_ns() - start_ns) / steps

        log.device = None
        found["span without events"] = _median_us(timed_span, steps)
        if clock is None:
            return found
        log.device = clock
        found["span with new events"] = _median_us(timed_span, steps)
        found["flush, per span with new events"] = flush() / 1e3
        found["span with reused events"] = _median_us(timed_span, steps)
        found["flush, per span with reused events"] = flush() / 1e3
    for name, call in _event_calls(synchronize).items():

        def timed_call(call: Callable[[], object] = call) -> float:
            step()
            start_ns = time.perf_counter_ns()
            call()
            return time.perf_counter_ns() - start_ns

        found[name] = _median_us(timed_call, steps)
    return found


def _event_calls(synchronize: Callable[[], None]) -> dict[str, Callable[[], object]]:
    """Return calls of CUDA that concern events, by what they do."""
    stream, device = torch.cuda.current_stream(), torch.cuda.current_device()
    new_event: Callable[..., Any] = torch.cuda.Event
    made = [new_event(enable_timing=True) for _ in range(2)]
    for event in made:
        event.record(stream)
    synchronize()
    first, second = made
    return {
        "make an event": lambda: made.append(new_event(enable_timing=True)),
        "make and record an event": lambda: new_event(enable_timing=True).record(stream),
        "record an event again": lambda: made[-1].record(stream),
        "query an event": first.query,
        "time between two events": lambda: first.elapsed_time(second),
        "current stream": torch.cuda.current_stream,
        "current stream's number": lambda: torch._C._cuda_getCurrentRawStream(device),
        "is it capturing": torch.cuda.is_current_stream_capturing,
    }


def _median_us(timed: Callable[[], float], repeats: int) -> float:
    return float(np.median([timed() for _ in range(repeats)])) / 1e3


def _without_thread(meter: joulelab.Meter) -> Any:
    """Return the log of a meter's spans after ending its thread, whose work is left to do."""
    log: Any = meter._log
    log._stopping.set()
    log._thread.join()
    return log


def _steps_in(step: Callable[[], None], synchronize: Callable[[], None], block_s: float) -> int:
    for _ in range(50):
        step()
    synchronize()
    start_s = time.perf_counter()
    for _ in range(100):
        step()
    synchronize()
    return max(100, round(100 * block_s / (time.perf_counter() - start_s)))


def _training() -> tuple[Callable[[], None], Callable[[], None], Mapping[str, Any]]:
    """Return a training step, a function that waits for the device, and their description."""
    gpu = torch.cuda.is_available()
    if not gpu:
        torch.set_num_threads(1)
    device = torch.device("cuda" if gpu else "cpu")
    batch_size = GPU_BATCH if gpu else CPU_BATCH
    torch.manual_seed(1)
    model = build_model("LeNet").to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images = torch.randn(batch_size, 3, 32, 32, device=device)
    labels = torch.randint(10, (batch_size,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def synchronize() -> None:
        if gpu:
            torch.cuda.synchronize()

    name = torch.cuda.get_device_name() if gpu else "CPU, one thread, because there is no GPU"
    about = {"device": name, "batch_size": batch_size, "torch": torch.__version__}
    return step, synchronize, about


if __name__ == "__main__":
    main(sys.argv[1:])
