#!/usr/bin/env bash
# Check JouleLab on a machine with an NVIDIA GPU in under 8 minutes, without a network.
#
#   benchmarks/on_gpu.sh [--seconds 470] [--out DIRECTORY] [--keep DIRECTORY] [--only PART,...]
#
# It needs Python 3.11 or newer with PyTorch, and JouleLab's dependencies. Packages that are missing
# are listed; put their wheels into one folder and set WHEELS to it. JouleLab itself runs from this
# checkout. Power limits, clocks and modes of the GPU are left as they are.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root/src:$root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1

site=""
clean_up() {
    if [ -n "$site" ]; then rm -rf "$site"; fi
}
trap clean_up EXIT

if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" \
        "$WHEELS"/*.whl
    export PYTHONPATH="$site:$PYTHONPATH"
fi

"$python" -m benchmarks.on_gpu "$@"
