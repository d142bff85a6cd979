"""Rendering of charts to SVG, PNG and PDF, in parallel: Vega uses one thread of a process.

``python -m joulelab.report.renderer`` reads specifications and writes images, both as JSON.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import vl_convert

from joulelab.errors import StoreError
from joulelab.format import printable
from joulelab.parallel import usable_cpus

FORMATS = ("svg", "png", "pdf")
MOST_PROCESSES = 4
_FEW_RUNS = 24
"""The charts of so few runs are rendered in the time that a process takes to start."""

_SMALL = {"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {}}
"""Rendered first, so that everything is loaded when it is needed."""

_PNG_SCALE = 3.0
_CLIPS = re.compile(r'(?<=id=")clip\d+|(?<=url\(#)clip\d+')
_PDF_NAMES = re.compile(rb"(?:\n +/[a-z]+\d+ \d+ 0 R){2,}")

Images = Mapping[str, bytes]
"""Format to content."""


class Renderer:
    """Processes that render. They start immediately, so that they are warm when needed.

    Args:
        formats: Among :data:`FORMATS`.
        processes: Number of processes; with 0, this process renders.
    """

    def __init__(self, formats: Sequence[str], processes: int) -> None:
        self._formats = formats
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *formats],
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

    def render(self, specifications: Sequence[Mapping[str, Any]]) -> list[Images]:
        """Return the images of Vega-Lite specifications; to be called once.

        The same specification gives the same bytes.

        Raises:
            StoreError: Rendering failed.
        """
        count = len(self._processes)
        if not count:
            return [render(one, self._formats) for one in specifications]
        shares = [specifications[first::count] for first in range(count)]
        with ThreadPoolExecutor(count) as pool:
            rendered = list(pool.map(_rendered_by, self._processes, shares))
        return [rendered[i % count][i // count] for i in range(len(specifications))]


def processes_for(runs: int) -> int:
    """Return how many processes are worth starting for the charts of a number of runs."""
    return min(MOST_PROCESSES, usable_cpus()) if runs > _FEW_RUNS else 0


def render(specification: Mapping[str, Any], formats: Sequence[str]) -> Images:
    """Render one specification in this process."""
    svg = _with_own_clips(vl_convert.vegalite_to_svg(_drawable(specification)))
    makers: Mapping[str, Callable[[], bytes]] = {
        "svg": svg.encode,
        "png": lambda: vl_convert.svg_to_png(svg, scale=_PNG_SCALE),
        "pdf": lambda: _PDF_NAMES.sub(_sorted, vl_convert.svg_to_pdf(svg)),
    }
    return {kind: makers[kind]() for kind in formats}


def _drawable(value: Any) -> Any:
    """Escape what XML has no characters for: the renderer would end the process."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {name: _drawable(one) for name, one in value.items()}
    return [_drawable(one) for one in value] if isinstance(value, list | tuple) else value


def _with_own_clips(svg: str) -> str:
    """Number the clip paths of a drawing from 1; Vega counts those of all drawings of a process."""
    numbers: dict[str, int] = {}
    return _CLIPS.sub(lambda found: f"clip{numbers.setdefault(found[0], len(numbers) + 1)}", svg)


def _sorted(lines: re.Match[bytes]) -> bytes:
    """Sort the names of a PDF's resources, whose order differs between calls."""
    return b"\n" + b"\n".join(sorted(lines[0].split(b"\n")[1:]))


def _rendered_by(
    process: subprocess.Popen[bytes], share: Sequence[Mapping[str, Any]]
) -> list[Images]:
    out, error = process.communicate(json.dumps(share).encode())
    if process.returncode:
        reason = error.decode(errors="replace").strip().rpartition("\n")[2]
        raise StoreError("cannot draw the charts", why=reason or f"exit {process.returncode}")
    return [{kind: base64.b64decode(text) for kind, text in one.items()} for one in json.loads(out)]


def _main() -> None:
    formats = sys.argv[1:]
    render(_SMALL, formats)
    rendered = [render(one, formats) for one in json.load(sys.stdin)]
    texts = [
        {kind: base64.b64encode(content).decode() for kind, content in one.items()}
        for one in rendered
    ]
    json.dump(texts, sys.stdout)


if __name__ == "__main__":
    _main()
