"""A simulation of a language model's server, whose joules per token are known exactly.

It speaks the OpenAI protocol over HTTP and schedules like vLLM's V1 engine: each step decodes one
token of every running request and prefills as many waiting tokens as its budget allows. Nothing is
calculated: a step takes the time, and draws the power, that `Settings` gives it. The power goes to
a file, from which `sensor` reads it as a simulated GPU in any other process.

Run it with `python tests/llm/simulated_server.py '{"port": 8000, "power_file": "power"}'`, and
measure it with `JOULELAB_SENSORS=simulated_server:sensor`, `PYTHONPATH=tests/llm` and
`SIMULATED_SERVER_POWER=power`.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

from joulelab.sensors.simulated import SimulatedSensor, SimulatedSource

MODEL = "simulated"
ENVIRONMENT = "SIMULATED_SERVER_POWER"
_POINT = struct.Struct("=qd")  # CLOCK_MONOTONIC in ns, and the power from then on in W.


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server costs and how it behaves. Numbers of requests count from 1.

    Attributes:
        port: 0 for any free port.
        power_file: Where power is written; empty for nowhere.
        idle_w: Power without a request.
        prompt_j: Energy of a token in prefill, above idle.
        output_j: Energy of a token in decode, above idle.
        step_j: Energy of a step, above idle, whatever is in it.
        step_s: Time of a step, with
        prompt_token_s: this for each token in prefill, and
        output_token_s: this for each token in decode.
        most_running: Requests in a batch; the others wait.
        step_tokens: Most tokens in a step.
        cache_block: Prompts are cached in blocks of this many tokens; 0 for no cache.
        start_s: Time for which it answers 503 after its start.
        has_usage: Whether replies state usage.
        has_metrics: Whether there are metrics.
        fail_every: Number of requests of which one is refused with HTTP 500; 0 for none.
        break_every: Likewise, one is broken off after half of its tokens.
        end_early_every: Likewise, one ends by itself after half of its tokens.
        tokens_per_chunk: Tokens in one event of a stream.
    """

    port: int = 0
    power_file: str = ""
    idle_w: float = 80.0
    prompt_j: float = 0.02
    output_j: float = 0.5
    step_j: float = 0.0
    step_s: float = 0.01
    prompt_token_s: float = 5e-5
    output_token_s: float = 5e-4
    most_running: int = 64
    step_tokens: int = 512
    cache_block: int = 0
    start_s: float = 0.0
    has_usage: bool = True
    has_metrics: bool = True
    fail_every: int = 0
    break_every: int = 0
    end_early_every: int = 0
    tokens_per_chunk: int = 1


class PowerFile:
    """The power of the server over time, in a file that grows.

    Args:
        path: The file; what is in it already is read.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        self._times_s: list[float] = []
        self._powers_w: list[float] = []
        self._energies_j: list[float] = []

    def append(self, *points: tuple[int, float]) -> None:
        """Write power from times on, in one piece. Times may be in the future."""
        os.write(self._file, b"".join(_POINT.pack(*point) for point in points))

    def update(self) -> None:
        """Read what was written since."""
        position = len(self._times_s) * _POINT.size
        while data := os.pread(self._file, 1 << 16, position):
            whole = len(data) - len(data) % _POINT.size
            for t_ns, power_w in _POINT.iter_unpack(data[:whole]):
                t_s = t_ns * 1e-9
                self._energies_j.append(self._until_j(t_s) if self._times_s else 0.0)
                self._times_s.append(t_s)
                self._powers_w.append(power_w)
            position += whole

    def power_w(self, t_s: float) -> float:
        """Return the power at a time; before the first, that of the first."""
        return self._powers_w[max(0, bisect_right(self._times_s, t_s) - 1)]

    def energy_j(self, start_s: float, stop_s: float) -> float:
        """Return the exact integral of power from start to stop."""
        return self._until_j(stop_s) - self._until_j(start_s)

    def _until_j(self, t_s: float) -> float:
        i = max(0, bisect_right(self._times_s, t_s) - 1)
        return self._energies_j[i] + self._powers_w[i] * (t_s - self._times_s[i])


class _ServerSensor(SimulatedSensor):
    """Reads the power that the server of another process writes."""

    def __init__(self, power: PowerFile, source: SimulatedSource) -> None:
        super().__init__(source)
        self._power = power

    def read(self):
        self._power.update()
        return super().read()


def sensor() -> SimulatedSensor:
    """Make the sensor of the server that `$SIMULATED_SERVER_POWER` names.

    Each reading is 0.3 s late, since on a busy machine the server may be late in writing its power.
    """
    power = PowerFile(Path(os.environ[ENVIRONMENT]))
    power.update()
    return _ServerSensor(
        power,
        SimulatedSource(component="gpu:0", waveform=power, noise_w=2.0, delay_s=0.3),
    )


@dataclass(eq=False)
class Sequence:
    """A request in the engine."""

    number: int
    prompt: tuple
    most_tokens: int
    finish_reason: str = "length"
    cached: int = 0
    prefilled: int = 0
    generated: int = 0
    prefill_j: float = 0.0
    decode_j: float = 0.0
    tokens: asyncio.Queue = field(default_factory=asyncio.Queue)


class Engine:
    """Batches requests into steps."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.power = PowerFile(Path(settings.power_file)) if settings.power_file else None
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.finished: list[Sequence] = []
        self.totals = {"prompt": 0, "cached": 0, "generated": 0, "prefill_j": 0.0, "decode_j": 0.0}
        self._cache: set[tuple] = set()
        self._work = asyncio.Event()
        self._step_ends_ns = 0
        if self.power:
            self.power.append((time.monotonic_ns(), settings.idle_w))

    def add(self, sequence: Sequence) -> None:
        """Queue a request."""
        block = self.settings.cache_block
        if block:
            prompt = sequence.prompt
            blocks = [prompt[:end] for end in range(block, len(prompt), block)]
            while blocks and blocks[0] in self._cache:
                sequence.cached += block
                blocks.pop(0)
            self._cache.update(blocks)
        sequence.prefilled = sequence.cached
        self.waiting.append(sequence)
        self._work.set()

    def drop(self, sequence: Sequence) -> None:
        """Take a request out, finished or not."""
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)
                self.finished.append(sequence)

    async def run(self) -> None:
        """Run steps while there are requests."""
        while True:
            if not (self.waiting or self.running):
                self._work.clear()
                await self._work.wait()
            prefills, decodes = self._schedule()
            started_ns = max(time.monotonic_ns(), self._step_ends_ns)
            duration_s = self._draw_power(prefills, decodes, started_ns)
            self._step_ends_ns = started_ns + round(duration_s * 1e9)
            await asyncio.sleep((self._step_ends_ns - time.monotonic_ns()) * 1e-9)
            self._deliver(prefills, decodes)

    def _schedule(self) -> tuple[dict[Sequence, int], list[Sequence]]:
        """Choose the tokens of a step: all that decode, then prompts, in order of arrival."""
        while self.waiting and len(self.running) < self.settings.most_running:
            self.running.append(self.waiting.pop(0))
        decodes = [one for one in self.running if one.prefilled == len(one.prompt)]
        budget = max(1, self.settings.step_tokens - len(decodes))
        prefills = {}
        for one in self.running:
            tokens = min(budget, len(one.prompt) - one.prefilled)
            if tokens > 0:
                prefills[one] = tokens
                budget -= tokens
        return prefills, decodes

    def _draw_power(self, prefills, decodes, started_ns) -> float:
        """Write the power of a step, note whose energy it is, and return its time."""
        settings, totals = self.settings, self.totals
        tokens = sum(prefills.values())
        duration_s = (
            settings.step_s
            + tokens * settings.prompt_token_s
            + len(decodes) * settings.output_token_s
        )
        share_j = settings.step_j / (len(prefills) + len(decodes))
        for one, number in prefills.items():
            one.prefill_j += number * settings.prompt_j + share_j
        for one in decodes:
            one.decode_j += settings.output_j + share_j
        prefill_j = tokens * settings.prompt_j + len(prefills) * share_j
        decode_j = len(decodes) * (settings.output_j + share_j)
        totals["prefill_j"] += prefill_j
        totals["decode_j"] += decode_j
        if self.power:
            # The energy of a step is exact, however late the next one starts.
            power_w = settings.idle_w + (prefill_j + decode_j) / duration_s
            stop_ns = started_ns + round(duration_s * 1e9)
            self.power.append((started_ns, power_w), (stop_ns, settings.idle_w))
        return duration_s

    def _deliver(self, prefills, decodes) -> None:
        """Hand out the tokens of a step. The last step of a prompt gives the first token."""
        for one, tokens in prefills.items():
            one.prefilled += tokens
        done = [one for one in prefills if one.prefilled == len(one.prompt)]
        for one in done:
            self.totals["prompt"] += len(one.prompt)
            self.totals["cached"] += one.cached
        for one in (*done, *decodes):
            if one not in self.running:  # Its client has left during the step.
                continue
            one.generated += 1
            self.totals["generated"] += 1
            one.tokens.put_nowait(one.generated)
            if one.generated == one.most_tokens:
                self.drop(one)


def main() -> None:
    import simulated_protocol

    simulated_protocol.serve(Settings(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}")))


if __name__ == "__main__":
    main()
