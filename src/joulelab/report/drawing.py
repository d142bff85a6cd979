"""Draws specifications, several at a time: Vega runs in one thread of a process only.

``python -m joulelab.report.drawing`` reads specifications and writes drawings, both as JSON.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import vl_convert

from joulelab.errors import StoreError

Specification = Mapping[str, Any]
Drawing = Mapping[str, bytes]
"""A drawing in each format."""

MOST_PROCESSES = 4
_FEW = 6
"""So many are drawn in the time that a process takes to start."""

_PNG_SCALE = 3.0
_PDF_NAMES = re.compile(rb"(?:\n +/[a-z]+\d+ \d+ 0 R){2,}")


def draw(specifications: Sequence[Specification], formats: Sequence[str]) -> list[Drawing]:
    """The drawings of Vega-Lite specifications. The same specification gives the same bytes.

    Args:
        specifications: With their data and configuration.
        formats: Among ``svg``, ``png`` and ``pdf``.

    Raises:
        StoreError: Drawing failed.
    """
    processes = min(MOST_PROCESSES, os.cpu_count() or 1, len(specifications) // _FEW)
    if processes < 2:
        return [drawing(one, formats) for one in specifications]
    shares = [specifications[first::processes] for first in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        drawn = list(pool.map(lambda share: _drawn_apart(share, formats), shares))
    return [drawn[i % processes][i // processes] for i in range(len(specifications))]


def drawing(specification: Specification, formats: Sequence[str]) -> Drawing:
    """One drawing, made by this process."""
    svg = vl_convert.vegalite_to_svg(dict(specification))
    makers = {
        "svg": svg.encode,
        "png": lambda: vl_convert.svg_to_png(svg, scale=_PNG_SCALE),
        "pdf": lambda: _PDF_NAMES.sub(_sorted, vl_convert.svg_to_pdf(svg)),
    }
    return {kind: makers[kind]() for kind in formats}


def _sorted(lines: re.Match[bytes]) -> bytes:
    """Names of a PDF's resources, whose order differs from one call to the next, in order."""
    return b"\n" + b"\n".join(sorted(lines[0].split(b"\n")[1:]))


def _drawn_apart(share: Sequence[Specification], formats: Sequence[str]) -> list[Drawing]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, *formats],
        input=json.dumps(share).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise StoreError("figures cannot be drawn", why=reason or f"exit code {done.returncode}")
    return [
        {kind: base64.b64decode(text) for kind, text in one.items()}
        for one in json.loads(done.stdout)
    ]


def _main() -> None:
    drawn = [drawing(one, sys.argv[1:]) for one in json.load(sys.stdin)]
    texts = [
        {kind: base64.b64encode(content).decode() for kind, content in one.items()} for one in drawn
    ]
    json.dump(texts, sys.stdout)


if __name__ == "__main__":
    _main()
