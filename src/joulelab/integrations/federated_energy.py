"""Energy of federated learning from its recordings: of each client, round and what it consists of.

:mod:`joulelab.integrations.flower` marks the spans that are needed. Reading does without Flower.
"""

from __future__ import annotations

import io
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from joulelab.carbon.network import NetworkEnergy
from joulelab.carbon.site import Site
from joulelab.energy.data_exchange import DataVolume
from joulelab.energy.uncertainty import component_own_share
from joulelab.errors import UserError
from joulelab.format import (
    count,
    duration,
    interval,
    is_undetermined,
    joules,
    number,
    percent,
    quantity,
)
from joulelab.machine import describe
from joulelab.recording.launcher import host_name
from joulelab.recording.span_columns import SpanColumns
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.runs.hosts import HostRecording, gather, sum_hosts
from joulelab.runs.saved_baseline import load_baseline
from joulelab.uncertain import UncertainValue

if TYPE_CHECKING:
    import os

    from joulelab.energy.baseline import Baseline
    from joulelab.energy.energy import ComponentEnergy, Energy
    from joulelab.energy.estimator import EnergyEstimator
    from joulelab.meter import Meter
    from joulelab.recording.spans import Span
    from joulelab.recording.trace import Trace

ROUND_SPAN = "round"
"""Name of the server's spans; clients' spans have the attributes ``client`` and ``round``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRound:
    """Energy and data of a client in a round, or a sum of several."""

    client: str = ""  # The client; empty in a sum over clients.
    round: int = 0  # The round; 0 in a sum over rounds.
    duration_s: float = 0.0  # Time in which it computed.
    examples: float = 0  # Number of examples that it trained on and evaluated.
    computation_j: float = 0.0  # Energy while it computed.
    waiting_j: float = 0.0  # Energy while it waited in rounds that it took part in.
    sent_bytes: int = 0  # Parameters that it sent.
    received_bytes: int = 0  # Parameters that it received.

    @property
    def energy_j(self) -> float:
        """Energy of computation and waiting."""
        return self.computation_j + self.waiting_j

    def __add__(self, other: ClientRound) -> ClientRound:
        theirs = asdict(other)
        sums = {name: value + theirs[name] for name, value in asdict(self).items()}
        sums["client"] = self.client if self.client == other.client else ""
        sums["round"] = self.round if self.round == other.round else 0
        return ClientRound(**sums)


@dataclass(frozen=True)
class FederatedEnergy:
    """The energy of federated learning, in parts that add up to that of the job."""

    clients: tuple[ClientRound, ...]  # One for each client and round, in this order.
    server_j: Mapping[int, float]  # Energy of each round while no client of its host computed.
    outside_j: float  # Energy before, between and after the rounds.
    others_j: float  # What other programs on the same machines used, where it is known.
    total: Energy  # Energy of all hosts; the sum of the above.
    notes: tuple[str, ...] = ()  # What limits the values, as sentences without a full stop.

    @property
    def by_client(self) -> dict[str, ClientRound]:
        """The sum over rounds of each client."""
        return _grouped(self.clients, lambda one: one.client)

    @property
    def by_round(self) -> dict[int, ClientRound]:
        """The sum over clients of each round."""
        return dict(sorted(_grouped(self.clients, lambda one: one.round).items()))

    @property
    def sum(self) -> ClientRound:
        """The sum over clients and rounds."""
        return reduce(ClientRound.__add__, self.clients, ClientRound())

    @property
    def network(self) -> NetworkEnergy:
        """Published energy of networks for the bytes; derived, not in :attr:`total`."""
        one = self.sum
        volume = float(one.sent_bytes + one.received_bytes)
        return NetworkEnergy.of(DataVolume(volume, volume, volume), Site.configured().access)

    @property
    def parts(self) -> dict[str, float]:
        """The parts of the total energy, J."""
        one = self.sum
        return {
            "computation": one.computation_j,
            "waiting": one.waiting_j,
            "server": math.fsum(self.server_j.values()),
            "outside rounds": self.outside_j,
            "other programs": self.others_j,
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "clients": [{**asdict(one), "energy_j": one.energy_j} for one in self.clients],
            "server_j": {str(name): value for name, value in self.server_j.items()},
            "parts_j": {name.replace(" ", "_"): value for name, value in self.parts.items()},
            "total": self.total.to_json(),
            "network": self.network.to_json(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Format it as tables by client and by round."""
        whole_j = self.total.gross_j
        one = self.sum
        exchanged = quantity(one.sent_bytes + one.received_bytes, "B")
        lines = [
            _table("client", self.by_client.items(), None),
            _table("round", self.by_round.items(), self.server_j),
            f"total: {joules(whole_j, *self.total.interval_j)}",
            *(
                f"  {name}: {quantity(value, 'J')} ({percent(value / whole_j)})"
                for name, value in self.parts.items()
            ),
            f"communication: {exchanged}; {self.network.text()}",
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def energy_of(meter: Meter, span: Span | TraceSpan | None = None) -> FederatedEnergy:
    """Compute the energy of federated learning in a recording that goes on.

    Args:
        meter: A meter of the recording.
        span: Only the time in this finished span, for example the one named ``federated``.
    """
    window = None if span is None else Window(span.start_ns, span.stop_ns or time.monotonic_ns())
    return add_up_clients([HostRecording(meter.directory, meter.trace, meter.baseline)], window)


def read_energy(
    directory: str | os.PathLike[str], baselines: Mapping[str, Baseline] | None = None
) -> FederatedEnergy:
    """Compute the energy of a job of federated learning from its recordings.

    Args:
        directory: What ``joulelab run --out`` wrote, or the recordings of several hosts.
        baselines: Idle power by host. Default: what ``joulelab idle`` saved for this machine.

    Raises:
        UserError: There is no recording.
        TraceError: A recording cannot be read.
    """
    own = load_baseline(describe)
    known = {} if own is None else {host_name(): own}
    return add_up_clients(gather(directory, known if baselines is None else baselines).recordings)


class _Use(NamedTuple):
    """A client's span: what it exchanged, and when it computed within the window."""

    row: ClientRound
    start_ns: int
    stop_ns: int
    cpu_share: float  # CPU time over time; NaN if it is not known yet.


_Purpose = tuple[str, str, int]
"""Use of a part of a host's energy, the client and the round."""


def add_up_clients(
    recordings: Sequence[HostRecording], window: Window | None = None
) -> FederatedEnergy:
    """Divide the energy of hosts among clients, rounds and the server.

    Args:
        recordings: One of each host, or several with different times.
        window: Only this time, on the clock of the recordings. Default: each as a whole.

    Raises:
        UserError: No client was recorded.
    """
    sums: dict[_Purpose, float] = defaultdict(float)
    exchanged: list[ClientRound] = []
    totals: dict[str, Energy] = {}
    notes: dict[str, None] = {}
    for index, one in enumerate(recordings):
        whole = window or one.whole
        spans = list(_within(one.trace, whole))
        uses = [
            _use(span, whole) for span in spans if {"client", "round"} <= span.attributes.keys()
        ]
        exchanged += [use.row for use in uses]
        for purpose, energy_j in _divide(one.estimator, uses, _rounds(spans, whole), whole, notes):
            sums[purpose] += energy_j
        host = one.host if one.host not in totals else f"{one.host}#{index}"
        totals[host] = one.estimator.total([whole])
        if math.isnan(totals[host].idle_j):
            notes[_NO_IDLE] = None
    if not exchanged:
        raise UserError(
            "no client of Flower was recorded",
            why="no span has a client and a round",
            hint="use ClientApp(mods=[flower.energy_mod]) and run it with `joulelab run`",
        )
    rows = _grouped(exchanged, lambda one: (one.client, one.round))
    total = sum_hosts(totals, ()) if len(totals) > 1 else next(iter(totals.values()))
    clients = [
        replace(
            rows[client, number],
            computation_j=sums["computation", client, number],
            waiting_j=sums["waiting", client, number],
        )
        for client, number in sorted(rows, key=_natural_order)
    ]
    of_server = {key[2]: value for key, value in sums.items() if key[0] == "server"}
    return FederatedEnergy(
        clients=tuple(clients),
        server_j=dict(sorted(of_server.items())),
        outside_j=sums["outside", "", 0],
        others_j=sums["others", "", 0],
        total=total,
        notes=(*total.notes, *notes),
    )


_NO_IDLE = (
    "idle power is unknown, so all energy of a host counts as computation while one of its clients "
    "computes: measure it with `joulelab idle`"
)
_DIVIDED = (
    "while several clients of a host computed, its energy is divided by their CPU time, that of "
    "GPUs evenly"
)


def _natural_order(key: tuple[str, int]) -> tuple[int, str, int]:
    client, number = key
    return (int(client) if client.isdecimal() else -1, client, number)


def _within(trace: Trace, whole: Window) -> SpanColumns:
    """Select the spans that overlap a window, open ones included."""
    columns = SpanColumns.of(trace.spans)
    start_ns, stop_ns = columns.spans["start_ns"], columns.spans["stop_ns"]
    is_late = ~columns.is_finished | (stop_ns >= whole.start_ns)
    return columns.where(is_late & (start_ns <= whole.stop_ns))


def _use(span: TraceSpan, whole: Window) -> _Use:
    given = span.attributes
    length_ns = 0 if span.stop_ns is None else span.stop_ns - span.start_ns
    row = ClientRound(
        client=str(given["client"]),
        round=int(given["round"]),
        duration_s=length_ns * 1e-9,
        examples=given.get("examples", 0),
        sent_bytes=given.get("sent_bytes", 0),
        received_bytes=given.get("received_bytes", 0),
    )
    stop_ns = whole.stop_ns if span.stop_ns is None else min(span.stop_ns, whole.stop_ns)
    cpu_share = given.get("cpu_s", math.nan) / length_ns if length_ns > 0 else math.nan
    return _Use(row, max(span.start_ns, whole.start_ns), stop_ns, cpu_share)


def _rounds(spans: Iterable[TraceSpan], whole: Window) -> dict[int, tuple[int, int]]:
    """Return the number and the end of each round of the server, by its start."""
    return {
        max(span.start_ns, whole.start_ns): (
            int(span.attributes["round"]),
            min(span.stop_ns or whole.stop_ns, whole.stop_ns),
        )
        for span in spans
        if span.name == ROUND_SPAN and "client_j" in span.attributes
    }


def _divide(
    estimator: EnergyEstimator,
    uses: Sequence[_Use],
    rounds: Mapping[int, tuple[int, int]],
    whole: Window,
    notes: dict[str, None],
) -> Iterator[tuple[_Purpose, float]]:
    """Divide the energy of a host at the edges of its spans, so that the parts add up to it.

    While clients compute, idle energy is divided evenly among the clients of the round, and the
    rest among those that compute. Of the time in which none does, the server has what is in a
    round on its host; elsewhere the clients of the host were waiting.
    """
    members: dict[int, set[str]] = defaultdict(set)
    starts: dict[int, list[_Use]] = defaultdict(list)
    for use in uses:
        members[use.row.round].add(use.row.client)
        starts[use.start_ns].append(use)
    last_ns = max((use.stop_ns for use in uses), default=whole.start_ns)
    ends_ns = [end for use in uses for end in (use.start_ns, use.stop_ns)]
    ends_ns += [*rounds, *(stop_ns for _, stop_ns in rounds.values())]
    edges_ns = sorted({whole.start_ns, whole.stop_ns, *ends_ns})
    windows = [Window(*pair) for pair in pairwise(edges_ns)]
    active: list[_Use] = []
    latest = number = round_stop_ns = 0  # The rounds of the client that began last, and the server.
    for window, energy in zip(windows, estimator.energies(windows), strict=True):
        active += starts[window.start_ns]
        active = [one for one in active if one.stop_ns > window.start_ns]
        latest = active[-1].row.round if active else latest
        if len(active) > 1:
            notes[_DIVIDED] = None
        number, round_stop_ns = rounds.get(window.start_ns, (number, round_stop_ns))
        for part in energy.components.values():
            fraction = part.share.fraction if part.share else 1.0
            job_j = fraction * part.gross_j
            yield ("others", "", 0), part.gross_j - job_j
            if active:
                yield from _of_clients(active, members, part, fraction)
            elif window.start_ns < round_stop_ns:
                yield ("server", "", number), job_j
            elif latest and not rounds and window.stop_ns <= last_ns:
                for client in members[latest]:
                    yield ("waiting", client, latest), job_j / len(members[latest])
            else:
                yield ("outside", "", 0), job_j


def _of_clients(
    active: Sequence[_Use], members: Mapping[int, set[str]], part: ComponentEnergy, fraction: float
) -> Iterator[tuple[_Purpose, float]]:
    """Divide the job's fraction of a component's energy while clients compute."""
    job_j = fraction * part.gross_j
    idle_j = 0.0 if math.isnan(part.idle_j) else min(fraction * part.idle_j, job_j)
    shares = [one.cpu_share for one in active]
    if part.component.startswith("gpu") or not math.fsum(shares) > 0:
        shares = [1.0] * len(active)
    for one, share in zip(active, shares, strict=True):
        own_j = (job_j - idle_j) * share / math.fsum(shares)
        yield ("computation", one.row.client, one.row.round), own_j
    computing = {(one.row.client, one.row.round) for one in active}
    latest = active[-1].row.round
    present = computing | {(client, latest) for client in members[latest]}
    for key in present:
        kind = "computation" if key in computing else "waiting"
        yield (kind, *key), idle_j / len(present)


def _grouped(
    rows: Iterable[ClientRound], key: Callable[[ClientRound], Any]
) -> dict[Any, ClientRound]:
    groups: dict[Any, ClientRound] = {}
    for one in rows:
        groups[key(one)] = groups[key(one)] + one if key(one) in groups else one
    return groups


def _table(
    first: str, rows: Iterable[tuple[Any, ClientRound]], server_j: Mapping[int, float] | None
) -> str:
    headings = ["time", "examples", "computation", "waiting", "sent", "received"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for heading in headings if server_j is None else [*headings, "server"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in rows:
        cells = [
            duration(one.duration_s),
            f"{one.examples:,.0f}",
            quantity(one.computation_j, "J"),
            quantity(one.waiting_j, "J"),
            quantity(one.sent_bytes, "B"),
            quantity(one.received_bytes, "B"),
        ]
        if server_j is not None:
            cells.append(quantity(server_j.get(name, 0.0), "J"))
        table.add_row(str(name), *cells)
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(filter(None, lines)) + "\n"


def compare_trainings(
    federated: Sequence[FederatedEnergy], centralised: Sequence[Energy], goal: str
) -> str:
    """Compare federated with centralised training to the same goal, in a sentence.

    Both used what the job's processes used, where other programs shared the machine.

    Args:
        federated: One of each repeat.
        centralised: One of each repeat, in the same order, for example by seed.
        goal: For example ``"95 % accuracy"``.

    Raises:
        UserError: There is nothing to compare.
    """
    # SciPy takes a second to import, which clients need not.
    from joulelab.compare.compare import estimate_effect  # noqa: PLC0415
    from joulelab.stats.difference import Cell, Repeats  # noqa: PLC0415

    if not federated or len(federated) != len(centralised):
        raise UserError(
            "the trainings cannot be compared",
            why=f"there are {len(federated)} federated and {len(centralised)} centralised ones",
            hint="train both equally often, at least once",
        )

    def repeats(energies: Iterable[UncertainValue]) -> Repeats:
        return Repeats(tuple(energies), tuple(range(len(federated))))

    def times(candidate: Repeats) -> str:
        effect = estimate_effect([Cell(baseline, candidate)])
        ends = interval(*effect.ratio_interval, effect.ratio)
        if is_undetermined(*effect.ratio_interval):
            return "an unknown number of times"
        return f"{number(effect.ratio)} times{f' (95 % CI {ends})' if ends else ''}"

    baseline = repeats(map(_own_energy, centralised))
    whole = repeats(_own_energy(one.total) for one in federated)
    computation = repeats(
        own.scaled(one.sum.computation_j / own.value)
        for own, one in zip(whole.values, federated, strict=True)
    )
    exchanged = [one.sum.sent_bytes + one.sum.received_bytes for one in federated]
    return (
        f"Federated training to {goal} used {times(whole)} the energy of centralised training "
        f"({quantity(whole.mean, 'J')} against {quantity(baseline.mean, 'J')}, mean of "
        f"{count(len(federated), 'repeat')}), computation on clients alone {times(computation)}; "
        f"{quantity(sum(exchanged) / len(exchanged), 'B')} were exchanged."
    )


def _own_energy(energy: Energy) -> UncertainValue:
    """Return what the job used of a machine, with causes of errors that all its energies share."""
    parts = energy.components.values()
    return UncertainValue.total(component_own_share(part, "", "") for part in parts)
