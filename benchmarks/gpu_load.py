"""Put a known load on the first GPU: ``python -m benchmarks.gpu_load steady|square``.

It prints a line once it runs, and runs until it is terminated. ``square`` works in the first half
of each 0.2 s of CLOCK_MONOTONIC. Needs torch; without a GPU the load is on the CPU.
"""

from __future__ import annotations

import signal
import sys
import time

import torch

PERIOD_S = 0.2
SIZE, CPU_SIZE = 4096, 256


def main(name: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    has_gpu = torch.cuda.is_available()
    size = SIZE if has_gpu else CPU_SIZE
    left = torch.randn(size, size, device="cuda" if has_gpu else "cpu", dtype=torch.bfloat16)
    right = torch.randn_like(left)
    is_running = False
    while True:
        into_s = time.monotonic() % PERIOD_S
        if name == "square" and into_s >= PERIOD_S / 2:
            time.sleep(PERIOD_S - into_s)
        torch.mm(left, right)
        if has_gpu:
            torch.cuda.synchronize()
        if not is_running:
            is_running = True
            print("running", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
