"""Federated learning of digits by ten clients, and what it uses against centralised training.

Run it with `joulelab run --out job -- python federated_digits.py`. It takes a few minutes.
"""

import os
import time

import numpy as np
from digits_task import Model, digits, partitions
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

import joulelab
from joulelab.integrations import flower

CLIENTS, LOCAL_EPOCHS, MOST_ROUNDS, GOAL = 10, 2, 60, 0.95
SEEDS = range(5)
NAMES = {"equal data (IID)": 0.0, "unequal data (Dirichlet, alpha 0.5)": 0.5}
SIMULATION = {
    "init_args": {"address": "local", "num_cpus": 2, "include_dashboard": False},
    "client_resources": {"num_cpus": 1},
}
client_app = ClientApp(mods=[flower.energy_mod])


@client_app.train()
def train(message: Message, context: Context) -> Message:
    config = message.content["config"]
    alpha, seed = config["alpha"], config["seed"]
    images = partitions(alpha, seed, CLIENTS)[context.node_config["partition-id"]]
    model = Model(seed)
    model.set(message.content["arrays"].to_numpy_ndarrays())
    for _ in range(LOCAL_EPOCHS):
        model.train(images)
    records = {
        "arrays": ArrayRecord(model.parameters),
        "metrics": MetricRecord({"num-examples": len(images)}),
    }
    return Message(RecordDict(records), reply_to=message)


@client_app.query()
def wake_up(message: Message, _: Context) -> Message:
    digits()
    return Message(RecordDict(), reply_to=message)


class GoalReached(Exception):
    """The model is as accurate as it should be."""


def train_federated(alpha: float, seed: int) -> int:
    """Train until the goal is reached; return the rounds that it took."""
    server_app = ServerApp()
    rounds = []

    @server_app.main()
    def main(grid: Grid, _: Context) -> None:
        # Real clients do not wait for Ray to start.
        while len(nodes := list(grid.get_node_ids())) < CLIENTS:
            time.sleep(0.1)
        grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes])
        model = Model(seed)

        def evaluate(server_round: int, arrays: ArrayRecord) -> None:
            model.set(arrays.to_numpy_ndarrays())
            if model.accuracy() >= GOAL:
                rounds.append(server_round)
                raise GoalReached

        strategy = flower.measure(FedAvg(fraction_evaluate=0.0))
        try:
            strategy.start(
                grid,
                ArrayRecord(model.parameters),
                MOST_ROUNDS,
                train_config=ConfigRecord({"alpha": alpha, "seed": seed}),
                evaluate_fn=evaluate,
            )
        except GoalReached:
            return

    run_simulation(server_app, client_app, CLIENTS, backend_config=SIMULATION)
    if not rounds:
        raise SystemExit(f"the goal was not reached in {MOST_ROUNDS} rounds")
    return rounds[0]


def train_centralised(seed: int) -> int:
    """Train the same model on all images until the goal is reached; return the epochs."""
    model = Model(seed)
    images = np.arange(digits()[2].size)
    epochs = 0
    while model.accuracy() < GOAL:
        model.train(images)
        epochs += 1
    return epochs


if __name__ == "__main__":
    with joulelab.Meter() as meter:
        os.environ.setdefault("JOULELAB_RECORDING", str(meter.directory))
        centralised = []
        for seed in SEEDS:
            with meter.span("centralised", seed=seed) as span:
                epochs = train_centralised(seed)
            centralised.append(span.energy)
            print(f"centralised, seed {seed}: {epochs} epochs", flush=True)
        for name, alpha in NAMES.items():
            federated = []
            for seed in SEEDS:
                rounds = train_federated(alpha, seed)
                spans = [one for one in meter.trace.finished_spans if one.name == "federated"]
                federated.append(flower.energy_of(meter, spans[-1]))
                print(f"{name}, seed {seed}: {rounds} rounds", flush=True)
            print(f"\n{name}, seed {SEEDS[-1]}\n\n{federated[-1]}")
            goal = f"{100 * GOAL:g} % accuracy"
            print(f"{flower.compare_trainings(federated, centralised, goal)}\n")
