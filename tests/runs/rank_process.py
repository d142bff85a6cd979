"""A program with a meter that does what its input asks. See ``ranks.py``."""

import json
import sys
import time
import types
from pathlib import Path

import joulelab
from joulelab.recording.client import RecorderOptions
from joulelab.recording.recorder_choice import open_recorder


def answer(**values):
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def energy_of(span):
    energy = span.energy
    return {
        "start_ns": span.start_ns,
        "stop_ns": span.stop_ns,
        "gross_j": {name: part.gross_j for name, part in energy.components.items()},
        "uncertainty_j": {name: part.uncertainty_j for name, part in energy.components.items()},
        "absent": dict(energy.absent),
    }


def use_gpu(index, uuids):
    """From now on PyTorch reports a CUDA context on that GPU."""
    from fake_cuda import FakeCuda

    cuda = FakeCuda()
    cuda.device_count = lambda: len(uuids)
    cuda.get_device_properties = lambda i: types.SimpleNamespace(uuid=uuids[i])
    binding = cuda.binding(_cuda_hasPrimaryContext=lambda i: i == index)
    sys.modules["torch"] = types.SimpleNamespace(cuda=cuda, _C=binding)
    sys.modules["torch.cuda"] = cuda


def main():
    options = json.loads(sys.argv[1])
    if options.pop("wrapper", False):
        requested = RecorderOptions(options["sensors"], None)
        recorder = open_recorder(Path(options["directory"]), requested, wrapper=True)
        meter = joulelab.Meter(recorder=recorder)
    else:
        meter = joulelab.Meter(**options)
    answer(
        joined=meter.joined,
        recorder=meter.recorder_pid,
        directory=str(meter.directory),
        failure=meter.failure,
        alive=meter.alive,
    )
    for line in sys.stdin:
        request, _, rest = line.strip().partition(" ")
        if request == "span":
            name, _, seconds = rest.partition(" ")
            with meter.span(name) as span:
                time.sleep(float(seconds))
            answer(**energy_of(span))
        elif request == "cuda":
            index, *uuids = rest.split()
            use_gpu(int(index), uuids)
            answer()
        elif request == "close":
            meter.close()
            answer(alive=meter.alive, failure=meter.failure, spans=len(meter.spans))
            break


if __name__ == "__main__":
    main()
