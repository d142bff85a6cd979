"""A training script as users write it for torchrun: DDP in the first job, FSDP in the second.

``training.py ddp|fsdp OUT [DIRECTORY]``. Each rank writes ``OUT/<attempt>-<rank>.json``. In the
first attempt of the DDP job the rank that started the recorder is killed within its second epoch.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from told import MACHINE
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import joulelab
from joulelab.recording.trace_format import read_header

EPOCHS, STEPS = 2, 4


def model_of(kind):
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    if kind == "ddp":
        return DistributedDataParallel(model)
    # It takes seconds to import.
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model)


def main():
    kind, out, *directory = sys.argv[1:]
    rank, attempt = dist.get_rank(), os.environ["TORCHELASTIC_RESTART_COUNT"]
    options = {"sensors": MACHINE, "directory": directory[0]} if directory else {}
    with joulelab.Meter(**options) as meter:
        starter = read_header(meter.directory)["parent_pid"] == os.getpid()
        torch.manual_seed(0)
        model = model_of(kind)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for index in range(EPOCHS):
            with meter.span("epoch", index=index) as span:
                for _ in range(STEPS):
                    loss = model(torch.randn(8, 16)).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    time.sleep(0.1)
            if kind == "ddp" and attempt == "0" and index == 0:
                # All ranks' first epoch is in the trace before one of them dies.
                assert span.energy.gross_j > 0
                dist.barrier()
                if starter:
                    os.kill(os.getpid(), signal.SIGKILL)
        epochs = meter.energy("epoch")
        found = {
            "recorder": meter.recorder_pid,
            "joined": meter.joined,
            "failure": meter.failure,
            "directory": str(meter.directory),
            "gross_j": {name: part.gross_j for name, part in epochs.components.items()},
            "windows_ns": [[span.start_ns, span.stop_ns] for span in meter.spans_named("epoch")],
        }
    Path(out, f"{attempt}-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    try:
        main()
    finally:
        dist.destroy_process_group()
