"""A federated run without a model: three clients that compute for different times, two rounds."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from joulelab.integrations import flower

CLIENTS, ROUNDS = 3, 2
PARAMETERS = [np.zeros((40, 50)), np.zeros(50)]
SIMULATION = {
    "init_args": {"address": "local", "num_cpus": 2, "include_dashboard": False},
    "client_resources": {"num_cpus": 1},
}
client_app, server_app = ClientApp(mods=[flower.energy_mod]), ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    client = context.node_config["partition-id"]
    until_s = time.process_time() + 0.04 * (1 + client)
    while time.process_time() < until_s:
        pass
    metrics = MetricRecord({"num-examples": 10 + client})
    records = {"arrays": message.content["arrays"], "metrics": metrics}
    return Message(RecordDict(records), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, _: Context) -> Message:
    records = {"metrics": MetricRecord({"num-examples": 5, "accuracy": 0.5})}
    return Message(RecordDict(records), reply_to=message)


@server_app.main()
def main(grid: Grid, _: Context) -> None:
    strategy = flower.measure(FedAvg(min_available_nodes=CLIENTS))
    result = strategy.start(grid, ArrayRecord(PARAMETERS), ROUNDS)
    assert result.evaluate_metrics_clientapp[ROUNDS] == {"accuracy": 0.5}


if __name__ == "__main__":
    run_simulation(server_app, client_app, CLIENTS, backend_config=SIMULATION)
