"""Put a known load on the first GPU: ``python -m benchmarks.gpu_load steady|square``.

It runs until it is terminated. ``square`` works in the first half of each 0.2 s of CLOCK_MONOTONIC.
Needs torch and a GPU.
"""

from __future__ import annotations

import signal
import sys
import time

import torch

PERIOD_S = 0.2
SIZE = 4096


def main(name: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    left = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
    right = torch.randn_like(left)
    while True:
        into_s = time.monotonic() % PERIOD_S
        if name == "square" and into_s >= PERIOD_S / 2:
            time.sleep(PERIOD_S - into_s)
        torch.mm(left, right)
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1])
