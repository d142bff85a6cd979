"""A training script as users write it for torchrun: ``torchrun_training.py OUT DIRECTORY``.

Each rank writes ``OUT/<attempt>-<rank>.json``. The first attempt trains with DDP; the rank that
started the recorder is killed after its first epoch. The second attempt trains with FSDP.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from ranks import MACHINE
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import joulelab
from joulelab.recording.trace_schema import read_header

EPOCHS, STEPS = 2, 4


def model_of(attempt):
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    if attempt == "0":
        return DistributedDataParallel(model)
    # It takes seconds to import.
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model)


def main():
    out, directory = sys.argv[1:]
    rank, attempt = dist.get_rank(), os.environ["TORCHELASTIC_RESTART_COUNT"]
    with joulelab.Meter(sensors=MACHINE, directory=directory) as meter:
        starter = read_header(meter.directory)["parent_pid"] == os.getpid()
        torch.manual_seed(0)
        model = model_of(attempt)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for index in range(EPOCHS):
            with meter.span("epoch", index=index) as span:
                for _ in range(STEPS):
                    loss = model(torch.randn(8, 16)).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    time.sleep(0.1)
            if attempt == "0" and index == 0:
                # The first epoch of all ranks is in the trace before one of them dies.
                assert span.energy.gross_j > 0
                dist.barrier()
                if starter:
                    os.kill(os.getpid(), signal.SIGKILL)
        epochs = meter.energy("epoch")
        found = {
            "recorder": meter.recorder_pid,
            "joined": meter.joined,
            "failure": meter.failure,
            "gross_j": {name: part.gross_j for name, part in epochs.components.items()},
            "uncertainty_j": {name: part.uncertainty_j for name, part in epochs.components.items()},
            "windows_ns": [[span.start_ns, span.stop_ns] for span in meter.spans_named("epoch")],
        }
    Path(out, f"{attempt}-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    try:
        main()
    finally:
        dist.destroy_process_group()
