"""Errors of joules per token against a known truth: ``python -m benchmarks.token_attribution``.

A server with continuous batching is simulated one iteration at a time. The energy of each iteration
is the sum of what its prompt tokens and its decoding cost, so that the energies of prefill, of
decode and of each request are known exactly. The estimate only gets what a client and a power
sensor see: when each request was sent, when its first and its last token arrived, its numbers of
tokens, and noisy readings.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from benchmarks.boards import Power
from joulelab.arrays import Floats
from joulelab.llm.requests import RequestLog
from joulelab.llm.result import LlmResult
from joulelab.llm.token_attribution import attribute
from joulelab.recording.trace import Readings, Trace
from joulelab.sensors.sensor import Channel, Provenance, Quantity

IDLE_W = 70.0
IDLE_S = 8.0
"""Time before the first request and after the last."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A server, its load and its sensor."""

    # Requests that a closed loop has in flight, or the most that are served at once.
    concurrency: int = 8
    duration_s: float = 60.0  # Time in which requests are sent.
    # How prompts are processed: ``"alone"`` (those that wait share a processor of their own,
    # decoding goes on), ``"serial"`` (one at a time, decoding waits), ``"batched"`` (all that wait,
    # decoding waits), ``"chunked"`` (a chunk in each iteration of decoding), or ``"independent"``
    # (each at full speed at once, and decoded at a speed of its own).
    prefill: str = "alone"
    arrivals: str = "closed"  # ``"closed"``, ``"open"`` (Poisson) or ``"bursts"``.
    # Power of decoding over batch size: ``"tokens"`` (each token costs the same), ``"steps"`` (a
    # step costs the same, and each token in it), ``"root"``, ``"saturating"``.
    shape: str = "tokens"
    prefill_j: float = 0.02  # Energy of a prompt token, J.
    decode_j: float = 0.3  # Energy of an output token at full batch size, J.
    prefill_tokens_per_s: float = 10_000.0  # Speed of prefill.
    # Time of a step of decoding with one request, and with each further one.
    step_s: tuple[float, float] = (0.015, 0.0003)
    input_tokens: tuple[int, int] = (64, 1500)  # Range of prompt lengths (log-uniform).
    output_tokens: tuple[int, int] = (32, 512)  # Range of output lengths (log-uniform).
    slots: int = 0  # The most requests that are served at once; 0 for no limit.
    # Further energy of a token for each token before it, J, relative to its own.
    position_j: float = 0.0
    # By how much idle power has risen at the end, relative to that at the start.
    warm_up: float = 0.0
    late_s: float = 0.0  # Mean of the random time by which the client sees a token late.
    step_noise: float = 0.0  # Relative standard deviation of the time of a step.
    aborted: float = 0.0  # Share of requests that are aborted.
    cached: float = 0.0  # Share of requests of which most of the prompt is in the cache.
    # ``"mean"`` of the time since the reading before, ``"instant"``, ``"average"`` of the last
    # second, ``"lag"`` (first order, 0.25 s), ``"late"`` (by 0.7 s) or ``"counter"``.
    sensor: str = "mean"
    period_s: float = 0.1  # Time between two readings.
    noise: float = 0.03  # Standard deviation of a reading's noise, relative to its power.


@dataclass(frozen=True, eq=False)
class Truth:
    """What a simulated server did, and the power that it drew."""

    requests: RequestLog
    power: Power
    prefill_j: Floats  # Of each request.
    decode_j: Floats

    @property
    def j_per_input_token(self) -> float:
        return float(self.prefill_j.sum() / self.requests.input_tokens.sum())

    @property
    def j_per_output_token(self) -> float:
        return float(self.decode_j.sum() / self.requests.output_tokens.sum())


@dataclass(eq=False)
class _Request:
    sent_s: float
    prompt: int
    output: int
    uncached: int
    abort_after_s: float = math.inf
    left: float = field(init=False)  # Of the prompt.
    first_s: float = math.nan
    stop_s: float = math.nan
    made: int = 0
    steps: float = 0.0  # Of decoding; a prompt of another request may end within one.
    prefill_j: float = 0.0
    decode_j: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.uncached


def simulate(case: Case, rng: np.random.Generator) -> Truth:
    """Serve requests, iteration by iteration."""
    if case.prefill == "independent":
        return _independent(case, rng)
    return _Simulation(case, rng).run()


class _Simulation:
    def __init__(self, case: Case, rng: np.random.Generator) -> None:
        self.case, self.rng = case, rng
        self.now_s = IDLE_S
        self.waiting: deque[_Request] = deque()
        self.filling: list[_Request] = []  # Whose prompts are processed on their own.
        self.decoding: list[_Request] = []
        self.done: list[_Request] = []
        self.pieces: list[tuple[float, float, float]] = []  # Start, stop, W above idle.
        self.due_s: deque[float] = deque()
        self.slowness = 1.0  # Of the current step.

    def run(self) -> Truth:
        self._plan_arrivals()
        while self.waiting or self.filling or self.decoding or self.due_s:
            self._admit()
            if not (self.waiting or self.filling or self.decoding):
                self.now_s = self.due_s[0]
                continue
            self._iterate()
            self._finish()
        done = sorted(self.done, key=lambda one: one.sent_s)
        return _truth(done, np.array(self.pieces), self.case, self.rng)

    def _plan_arrivals(self) -> None:
        case, rng = self.case, self.rng
        end_s = IDLE_S + case.duration_s
        if case.arrivals == "closed":
            self.due_s.extend([IDLE_S] * case.concurrency)
            return
        mean_out = _log_mean(case.output_tokens)
        busy_s = mean_out * (case.step_s[0] + case.step_s[1] * case.concurrency / 2)
        per_s = 0.5 * case.concurrency / busy_s
        t_s = IDLE_S
        while t_s < end_s:
            if case.arrivals == "open":
                self.due_s.append(t_s)
                t_s += rng.exponential(1 / per_s)
            else:
                self.due_s.extend([t_s] * case.concurrency)
                t_s += rng.uniform(1.0, 2.5) * case.concurrency / per_s / 2

    def _admit(self) -> None:
        while self.due_s and self.due_s[0] <= self.now_s + 1e-12:
            self.waiting.append(self._new(self.due_s.popleft()))

    def _new(self, sent_s: float) -> _Request:
        case, rng = self.case, self.rng
        prompt, output = _lengths(case, rng)
        uncached = prompt
        if rng.uniform() < case.cached:
            uncached = max(int(prompt * rng.uniform(0.05, 0.3)), 1)
        request = _Request(sent_s, prompt, output, uncached)
        if rng.uniform() < case.aborted:
            request.abort_after_s = rng.uniform(0.0, 1.2 * output * case.step_s[0])
        return request

    def _iterate(self) -> None:
        """Do one iteration: its time, its energies, its tokens."""
        case = self.case
        self.slowness = math.exp(case.step_noise * self.rng.standard_normal())
        space = (case.slots or case.concurrency) - len(self.decoding) - len(self.filling)
        speed = case.prefill_tokens_per_s
        if case.prefill == "alone":
            while self.waiting and space > 0:
                self.filling.append(self.waiting.popleft())
                space -= 1
            self._step(speed / max(len(self.filling), 1))
            return
        while self.waiting and space > 0:
            self.filling.append(self.waiting.popleft())
            space -= 1
        if case.prefill == "chunked":
            chunk, parts = 256.0, []
            for one in self.filling:
                parts.append(min(one.left, chunk))
                chunk -= parts[-1]
            length_s = self._step_s() + sum(parts) / speed
            self._advance(length_s, list(zip(self.filling, parts, strict=True)), self.decoding)
        elif self.filling:
            some = self.filling[:1] if case.prefill == "serial" else self.filling
            work = [(one, one.left) for one in some]
            self._advance(sum(left for _, left in work) / speed, work, [])
        else:
            self._advance(self._step_s(), [], self.decoding)

    def _step(self, speed: float) -> None:
        """Advance to the end of a step of decoding, or to the end of a prompt."""
        length_s = self._step_s() if self.decoding else math.inf
        length_s = min([length_s, *(one.left / speed for one in self.filling)])
        share = length_s / self._step_s()
        work = [(one, min(length_s * speed, one.left)) for one in self.filling]
        self._advance(length_s, work, self.decoding, share)

    def _step_s(self) -> float:
        first_s, next_s = self.case.step_s
        return (first_s + next_s * len(self.decoding)) * self.slowness

    def _decode_w(self) -> float:
        """Power of decoding at this batch size."""
        case, b, most = self.case, len(self.decoding), self.case.concurrency
        full_w = case.decode_j * most / (case.step_s[0] + case.step_s[1] * most)
        step_s = self._step_s()
        match case.shape:
            case "tokens":
                return case.decode_j * b / step_s
            case "steps":
                fixed_j = 0.5 * case.decode_j * most
                return (fixed_j + 0.5 * case.decode_j * b) / step_s
            case "root":
                return full_w * math.sqrt(b / most)
            case _:
                half = max(most / 8, 0.5)
                return full_w * b / (b + half) * (most + half) / most

    def _advance(
        self,
        length_s: float,
        work: Sequence[tuple[_Request, float]],
        decoding: Sequence[_Request],
        share: float = 1.0,
    ) -> None:
        case = self.case
        prefills_j = [
            tokens * case.prefill_j * (1 + case.position_j * (one.prompt - one.left + tokens / 2))
            for one, tokens in work
        ]
        prefill_j = sum(prefills_j)
        decode_j = self._decode_w() * self._step_s() * share if decoding else 0.0
        context = [1 + case.position_j * (one.prompt + one.made) for one in decoding]
        decode_j *= sum(context) / max(len(context), 1)
        stop_s = self.now_s + length_s
        self.pieces.append((self.now_s, stop_s, (prefill_j + decode_j) / length_s))
        self.now_s = stop_s
        for one, weight in zip(decoding, context, strict=True):
            one.decode_j += decode_j * weight / sum(context)
            one.steps += share
            one.made = 1 + int(one.steps + 1e-9)
        for (one, tokens), one_j in zip(work, prefills_j, strict=True):
            one.prefill_j += one_j
            one.left -= tokens
            if one.left <= 1e-9:
                one.first_s, one.made = self.now_s, 1

    def _finish(self) -> None:
        """Move requests on, and send the next ones of a closed loop."""
        ended = []
        for one in [*self.filling]:
            if not math.isnan(one.first_s):
                self.filling.remove(one)
                self.decoding.append(one)
        for queue in (self.decoding, self.filling, self.waiting):
            for one in [*queue]:
                is_aborted = self.now_s - one.sent_s >= one.abort_after_s
                if is_aborted or (queue is self.decoding and one.made >= one.output):
                    queue.remove(one)
                    one.stop_s = self.now_s
                    ended.append(one)
        self.done += ended
        case = self.case
        if case.arrivals == "closed" and self.now_s < IDLE_S + case.duration_s:
            self.due_s.extend([self.now_s + 0.002] * len(ended))


def _independent(case: Case, rng: np.random.Generator) -> Truth:
    """Serve requests that do not affect each other."""
    done, pieces = [], []
    for _ in range(case.concurrency):
        now_s = IDLE_S + rng.uniform(0, 0.05)
        while now_s < IDLE_S + case.duration_s:
            prompt, output = _lengths(case, rng)
            one = _Request(now_s, prompt, output, prompt)
            one.first_s = (
                now_s + 0.01 + prompt / (case.prefill_tokens_per_s * rng.uniform(0.8, 1.2))
            )
            step_s = sum(case.step_s) * math.exp(0.1 * rng.standard_normal())
            one.stop_s = one.first_s + output * step_s
            one.made = output
            one.prefill_j, one.decode_j = prompt * case.prefill_j, output * case.decode_j
            pieces += [(now_s, one.first_s, one.prefill_j), (one.first_s, one.stop_s, one.decode_j)]
            done.append(one)
            now_s = one.stop_s + 0.005
    begin_s, end_s, energy_j = np.array(pieces).T
    edges_s = np.unique(np.concatenate((begin_s, end_s)))
    change_w = np.zeros(edges_s.size)
    np.add.at(change_w, np.searchsorted(edges_s, begin_s), energy_j / (end_s - begin_s))
    np.add.at(change_w, np.searchsorted(edges_s, end_s), -energy_j / (end_s - begin_s))
    merged = np.stack((edges_s[:-1], edges_s[1:], np.cumsum(change_w)[:-1]), axis=1)
    return _truth(sorted(done, key=lambda one: one.sent_s), merged, case, rng)


def _lengths(case: Case, rng: np.random.Generator) -> tuple[int, int]:
    prompt, output = (
        round(math.exp(rng.uniform(*np.log(bounds))))
        for bounds in (case.input_tokens, case.output_tokens)
    )
    return prompt, output


def _truth(done: Sequence[_Request], pieces: Floats, case: Case, rng: np.random.Generator) -> Truth:
    columns = np.array(
        [(r.sent_s, r.first_s, r.stop_s, r.prompt, r.made, r.prefill_j, r.decode_j) for r in done]
    ).T
    start_s, first_s, stop_s, prompt, made, prefill_j, decode_j = columns
    late_s = rng.exponential(case.late_s, (2, len(done)))
    first_s = first_s + late_s[0]
    stop_s = np.fmax(stop_s + late_s[1], first_s)
    requests = RequestLog(
        tuple(map(str, range(len(done)))),
        start_s, first_s, stop_s, prompt, made, np.zeros(len(done)),
    )  # fmt: skip
    begin_s, end_s, above_w = pieces.T
    # A gap between pieces is idle.
    times_s = np.stack((begin_s, begin_s, end_s, end_s), axis=1).reshape(-1)
    zeros = np.zeros(begin_s.size)
    power_w = np.stack((zeros, above_w, above_w, zeros), axis=1).reshape(-1)
    last_s = times_s[-1] + IDLE_S
    time_s = np.concatenate(([0.0], times_s, [last_s]))
    idle_w = IDLE_W * (1 + case.warm_up * np.clip((time_s - IDLE_S) / (last_s - 2 * IDLE_S), 0, 1))
    return Truth(requests, Power(time_s, np.pad(power_w, 1) + idle_w), prefill_j, decode_j)


def record(truth: Truth, case: Case, rng: np.random.Generator) -> Trace:
    """Return what a sensor reads of a power."""
    power, period_s = truth.power, case.period_s
    t_s = np.arange(period_s * (1 + rng.uniform()), power.time_s[-1], period_s)
    quantity = Quantity.POWER
    match case.sensor:
        case "mean":
            value = power.mean_w(t_s - period_s, t_s)
        case "instant":
            value = power.at(t_s)
        case "late":
            t_s = t_s[t_s > 1.0]
            value = power.mean_w(t_s - 0.7 - period_s, t_s - 0.7)
        case "average":
            t_s = t_s[t_s > 1.0]
            value = power.mean_w(t_s - 1.0, t_s)
        case "lag":
            fine_s = np.arange(0.0, power.time_s[-1], 0.001)
            fine_w = np.concatenate(([IDLE_W], np.diff(power.energy_j(fine_s)) / 0.001))
            kernel = np.exp(-np.arange(0, 3.0, 0.001) / 0.25)
            size = fine_w.size + kernel.size - 1
            spectrum = np.fft.rfft(fine_w - IDLE_W, size) * np.fft.rfft(kernel / kernel.sum(), size)
            smooth_w = IDLE_W + np.fft.irfft(spectrum, size)[: fine_w.size]
            value = np.interp(t_s, fine_s, smooth_w)
        case _:
            quantity = Quantity.ENERGY
            value = np.round(power.energy_j(t_s), 3)
    if quantity is Quantity.POWER:
        value = value * (1 + case.noise * rng.standard_normal(t_s.size))
    channel = Channel(
        component="gpu:0",
        quantity=quantity,
        source="power",
        provenance=Provenance.MEASURED,
        update_period_s=period_s,
        window_s=period_s if quantity is Quantity.POWER else 0.0,
    )
    return Trace((channel,), (Readings(np.rint(t_s * 1e9).astype(np.int64), value),))


@dataclass(frozen=True)
class Outcome:
    """Errors of one simulated run, relative."""

    input_error: float
    output_error: float
    input_covered: bool
    output_covered: bool
    input_half_width: float
    output_half_width: float
    sum_error: float
    request_error: float
    request_covered: float
    took_s: float


def outcome(case: Case, seed: int) -> Outcome:
    """Simulate one run and compare its estimate with the truth."""
    rng = np.random.default_rng(seed)
    truth = simulate(case, rng)
    trace = record(truth, case, rng)
    begin = time.perf_counter()
    found = attribute(truth.requests, trace)
    return compare(truth, found, time.perf_counter() - begin)


def compare(truth: Truth, found: LlmResult, took_s: float = 0.0) -> Outcome:
    """Compare an estimate with the truth."""
    per_in, per_out = found.cost.j_per_input_token, found.cost.j_per_output_token
    assert found.per_request is not None
    energy_j = truth.prefill_j + truth.decode_j
    each = found.per_request
    used = energy_j > 0
    return Outcome(
        per_in.value / truth.j_per_input_token - 1,
        per_out.value / truth.j_per_output_token - 1,
        per_in.low <= truth.j_per_input_token <= per_in.high,
        per_out.low <= truth.j_per_output_token <= per_out.high,
        (per_in.high - per_in.low) / 2 / truth.j_per_input_token,
        (per_out.high - per_out.low) / 2 / truth.j_per_output_token,
        float(each.energy_j.sum() / found.energy.net_j - 1),
        float(np.median(np.abs(each.energy_j[used] / energy_j[used] - 1))),
        float(np.mean((each.low_j <= energy_j) & (energy_j <= each.high_j))),
        took_s,
    )


def cases() -> dict[str, Case]:
    """Return the cases by name."""
    found: dict[str, Case] = {}
    for concurrency in (1, 8, 64):
        for period_s in (0.02, 0.1):
            name = f"{concurrency} in flight, {period_s * 1000:.0f} ms"
            found[name] = Case(concurrency=concurrency, period_s=period_s)
    base = Case(concurrency=16)
    for prefill in ("serial", "batched", "chunked"):
        found[f"{prefill} prefill"] = replace(base, prefill=prefill)
    for shape in ("steps", "root", "saturating"):
        found[f"power by {shape}"] = replace(base, shape=shape)
    for sensor in ("instant", "average", "lag", "late", "counter"):
        found[f"sensor: {sensor}"] = replace(base, sensor=sensor)
        found[f"sensor: {sensor}, 1 in flight"] = replace(base, sensor=sensor, concurrency=1)
    steps = replace(base, prefill="serial", shape="steps")
    found["open arrivals"] = replace(steps, arrivals="open")
    found["bursts"] = replace(steps, arrivals="bursts")
    found["aborted"] = replace(base, aborted=0.1, prefill="serial")
    found["cached"] = replace(base, cached=0.4, prefill="serial")
    found["6 slots for 16"] = replace(base, prefill="serial", slots=6)
    found["costly positions"] = replace(steps, position_j=3e-4)
    found["idle rises by 10 %"] = replace(steps, warm_up=0.1)
    found["late client"] = replace(steps, late_s=0.005)
    found["uneven steps"] = replace(steps, step_noise=0.2)
    found["independent requests"] = replace(base, prefill="independent")
    found["independent, 64, 20 ms"] = replace(
        base, prefill="independent", concurrency=64, period_s=0.02
    )
    found["a large model"] = replace(
        base, prefill="chunked", prefill_tokens_per_s=2000.0, prefill_j=0.2, decode_j=2.0,
        step_s=(0.05, 0.001), duration_s=120.0,
    )  # fmt: skip
    found["a small model"] = replace(
        base, prefill="serial", prefill_tokens_per_s=60000.0, prefill_j=0.003, decode_j=0.02,
        step_s=(0.003, 0.00005), output_tokens=(64, 1024),
    )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(markdown({n: c for n, c in cases().items() if options.only in n}, options.seeds, outcome))


def markdown(chosen: dict[str, Case], seeds: int, run: Callable[[Case, int], Outcome]) -> str:
    """Return a table of errors in percent, one row for each case."""
    lines = [
        "| case | input: median, largest, mean error | output | covered: input, output | "
        "half width: input, output | sum | request: median error (covered) | time, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, case in chosen.items():
        found = [run(case, seed) for seed in range(seeds)]
        columns = {
            one.name: 100 * np.array([getattr(outcome, one.name) for outcome in found], float)
            for one in fields(Outcome)
        }
        median = {key: np.median(np.abs(one)) for key, one in columns.items()}
        largest = {key: np.max(np.abs(one)) for key, one in columns.items()}
        mean = {key: np.mean(one) for key, one in columns.items()}
        cells = [
            name,
            *(
                f"{median[key]:.2f}, {largest[key]:.1f}, {mean[key]:+.2f}"
                for key in ("input_error", "output_error")
            ),
            f"{mean['input_covered']:.0f}, {mean['output_covered']:.0f}",
            f"{median['input_half_width']:.1f}, {median['output_half_width']:.2f}",
            f"{largest['sum_error']:.3f}",
            f"{median['request_error']:.2f} ({mean['request_covered']:.0f})",
            f"{median['took_s'] / 100:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _log_mean(bounds: tuple[int, int]) -> float:
    low, high = bounds
    return (high - low) / math.log(high / low)


if __name__ == "__main__":
    main()
