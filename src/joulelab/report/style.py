"""How figures look, and how they are written."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

PHASE_COLOURS = {"train": "#0072B2", "infer": "#D55E00"}
"""From the palette of Okabe and Ito, which colour-blind readers can tell apart."""

COMPONENT_COLOURS = {"gpu": "#009E73", "cpu": "#E69F00", "dram": "#56B4E9"}
"""Likewise."""

SERIES_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#7F7F7F",
)
"""Likewise, for as many series as a reader can tell apart."""

PHASE_NAMES = {"train": "Training", "infer": "Inference"}
COMPONENT_NAMES = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM"}
MARKERS = {"train": "o", "infer": "s"}
INK, QUIET, FAINT, GRID = "#1b1f24", "#57606a", "#a8b1bb", "#d8dee4"
WIDTH_IN = 7.0
"""Width of a figure: the text width of an A4 or Letter page."""

FORMATS = ("png", "svg", "pdf")

_SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "joulelab",
    "pdf.fonttype": 42,
    "text.parse_math": False,
}

_NO_DATES: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class NothingToDraw(Exception):
    """A figure's data are missing; the message says which."""


@contextmanager
def drawing() -> Iterator[None]:
    """The settings under which figures are made and saved; nothing is changed outside."""
    with mpl.rc_context(_SETTINGS):
        yield


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as a file of that kind (:data:`FORMATS`); the same figure gives the same bytes."""
    target = io.BytesIO()
    with drawing():
        figure.savefig(target, format=kind, metadata=_NO_DATES[kind])
    return target.getvalue()


def laid_out(figure: Figure) -> Figure:
    """The figure with its layout worked out once and kept, so that each file has the same."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def plain_numbers(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers: 0.5, 20, 1,000.

    Args:
        axis: Of an axes with that scale set.
        low: The least value that is drawn, positive.
        high: The greatest.
    """
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 3 else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_formatter(NullFormatter())


def plain_rows(axes: Axes, rows: int) -> None:
    """Horizontal rows, first on top: no lines between them, no ticks at their names."""
    axes.set_ylim(rows - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
