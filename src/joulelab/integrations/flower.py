"""Energy of federated learning with Flower: of each client, round and what it consists of.

Example::

    from joulelab.integrations import flower

    client_app = ClientApp(mods=[flower.energy_mod])
    strategy = flower.measure(FedAvg())

``joulelab run --out job -- python app.py`` then records the job, and
``flower.read_energy("job")`` adds it up.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from joulelab.errors import JoulelabError
from joulelab.integrations.federated_energy import (
    ROUND_SPAN,
    FederatedEnergy,
    compare_trainings,
    energy_of,
    read_energy,
)
from joulelab.meter import Meter

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

    from joulelab.recording.spans import Span

__all__ = [
    "FederatedEnergy",
    "compare_trainings",
    "energy_mod",
    "energy_of",
    "measure",
    "read_energy",
]

TRAINING_SPAN = "federated"
CLIENT_SPANS = {"train": "fit", "evaluate": "evaluate"}
"""Names of clients' spans by the type of the message that they answer."""
RECORD = "joulelab"
"""Name of the record in a client's reply, with its energy."""


@cache
def _meter() -> Meter:
    """Return the meter of this process; under ``joulelab run`` it joins the recorder of the job."""
    return Meter()


def energy_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Measure what a client does for a message: ``ClientApp(mods=[flower.energy_mod])``.

    It marks a span ``fit`` or ``evaluate`` with the client, the round, the number of examples and
    the bytes of parameters, and adds a record ``"joulelab"`` to the reply. This has the client's
    energy of computation, ``energy_j``, with what is known by then: the time in which several
    clients of a host compute is divided evenly. Put it first, so that it includes other mods.
    """
    kind = message.metadata.message_type.partition(".")[0]
    if kind not in CLIENT_SPANS:
        return call_next(message, context)
    meter = _meter()
    client = str(context.node_config.get("partition-id", context.node_id))
    configs = message.content.config_records.values()
    number = next((one["server-round"] for one in configs if "server-round" in one), 0)
    attributes = {"client": client, "round": number, "received_bytes": _bytes(message)}
    cpu_s = time.process_time()
    with meter.span(CLIENT_SPANS[kind], **attributes) as span:
        reply = call_next(message, context)
        span.attributes["cpu_s"] = time.process_time() - cpu_s
        if reply.has_content():
            metrics = reply.content.metric_records.values()
            examples = (one.get("num-examples", 0) for one in metrics)
            span.attributes |= {"sent_bytes": _bytes(reply), "examples": next(examples, 0)}
    if reply.has_content():
        try:
            found = energy_of(meter, span).clients
        except JoulelabError as error:  # The training goes on without.
            warnings.warn(f"the energy of client {client} is unknown: {error}", stacklevel=2)
            return reply
        energy_j = math.fsum(one.computation_j for one in found if one.client == client)
        reply.content[RECORD] = ConfigRecord({"client": client, "energy_j": energy_j})
    return reply


def _bytes(message: Message) -> int:
    return sum(one.count_bytes() for one in message.content.array_records.values())


def measure(strategy: Strategy) -> Strategy:
    """Mark the rounds of a strategy: ``strategy = flower.measure(FedAvg())``.

    Training becomes a span ``federated``, each round a span ``round`` in it. The attribute
    ``client_j`` of a round has the energy of computation that each client reported in its replies.
    """
    meter = _meter()
    rounds: list[Span] = []

    def end_round() -> None:
        while rounds:
            rounds.pop().end()

    def configure(server_round: int, *arguments: Any, **options: Any) -> Iterable[Message]:
        end_round()
        rounds.append(meter.begin(ROUND_SPAN, round=server_round, client_j={}))
        messages: Iterable[Message] = configure_train(server_round, *arguments, **options)
        return messages

    def collecting(aggregate: Callable[..., Any]) -> Callable[..., Any]:
        def collect(server_round: int, replies: Iterable[Message]) -> Any:
            replies = list(replies)
            for reply in replies:
                record = reply.content.config_records.get(RECORD) if reply.has_content() else None
                if record is not None and rounds:
                    energies, client = rounds[-1].attributes["client_j"], str(record["client"])
                    energies[client] = energies.get(client, 0.0) + record["energy_j"]
            return aggregate(server_round, replies)

        return collect

    def train(*arguments: Any, **options: Any) -> Any:
        with meter.span(TRAINING_SPAN, strategy=type(strategy).__name__):
            try:
                return start(*arguments, **options)
            finally:
                end_round()

    configure_train, start = strategy.configure_train, strategy.start
    changed = {
        "configure_train": configure,
        "aggregate_train": collecting(strategy.aggregate_train),
        "aggregate_evaluate": collecting(strategy.aggregate_evaluate),
        "start": train,
    }
    vars(strategy).update(changed)
    return strategy
