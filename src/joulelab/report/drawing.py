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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import vl_convert

from joulelab.errors import StoreError

Specification = Mapping[str, Any]
Drawing = Mapping[str, bytes]
"""A drawing in each format."""

MOST_PROCESSES = 4
_FEW_RUNS = 24
"""Their figures are drawn in the time that a process takes to start."""

_SMALL: Specification = {"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {}}
"""Drawn first, so that everything is loaded before it is needed."""

_PNG_SCALE = 3.0
_PDF_NAMES = re.compile(rb"(?:\n +/[a-z]+\d+ \d+ 0 R){2,}")


class Drawers:
    """Processes that draw. They start at once, and are warm when there is something to draw.

    Args:
        formats: Among ``svg``, ``png`` and ``pdf``.
        processes: How many; with none, everything is drawn by this process.
    """

    def __init__(self, formats: Sequence[str], processes: int) -> None:
        self._formats = formats
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", __name__, *formats],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(processes)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def draw(self, specifications: Sequence[Specification]) -> list[Drawing]:
        """The drawings of Vega-Lite specifications; to be called once.

        The same specification gives the same bytes.

        Args:
            specifications: With their data and configuration.

        Raises:
            StoreError: Drawing failed.
        """
        count = len(self._processes)
        if not count:
            return [drawing(one, self._formats) for one in specifications]
        shares = [specifications[first::count] for first in range(count)]
        with ThreadPoolExecutor(count) as pool:
            drawn = list(pool.map(_drawn_by, self._processes, shares))
        return [drawn[i % count][i // count] for i in range(len(specifications))]


def processes_for(runs: int) -> int:
    """How many processes are worth their start for the figures of so many runs."""
    return min(MOST_PROCESSES, os.cpu_count() or 1) if runs > _FEW_RUNS else 0


def drawing(specification: Specification, formats: Sequence[str]) -> Drawing:
    """One drawing, made by this process."""
    svg = vl_convert.vegalite_to_svg(dict(specification))
    makers: Mapping[str, Callable[[], bytes]] = {
        "svg": svg.encode,
        "png": lambda: vl_convert.svg_to_png(svg, scale=_PNG_SCALE),
        "pdf": lambda: _PDF_NAMES.sub(_sorted, vl_convert.svg_to_pdf(svg)),
    }
    return {kind: makers[kind]() for kind in formats}


def _sorted(lines: re.Match[bytes]) -> bytes:
    """Names of a PDF's resources, whose order differs from one call to the next, in order."""
    return b"\n" + b"\n".join(sorted(lines[0].split(b"\n")[1:]))


def _drawn_by(process: subprocess.Popen[bytes], share: Sequence[Specification]) -> list[Drawing]:
    out, error = process.communicate(json.dumps(share).encode())
    if process.returncode:
        reason = error.decode(errors="replace").strip().rpartition("\n")[2]
        raise StoreError("figures cannot be drawn", why=reason or f"exit {process.returncode}")
    return [{kind: base64.b64decode(text) for kind, text in one.items()} for one in json.loads(out)]


def _main() -> None:
    formats = sys.argv[1:]
    drawing(_SMALL, formats)
    drawn = [drawing(one, formats) for one in json.load(sys.stdin)]
    texts = [
        {kind: base64.b64encode(content).decode() for kind, content in one.items()} for one in drawn
    ]
    json.dump(texts, sys.stdout)


if __name__ == "__main__":
    _main()
