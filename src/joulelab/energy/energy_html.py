"""An energy as a small HTML table, for notebooks."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from joulelab.energy.words import joules

if TYPE_CHECKING:
    from joulelab.energy.energy import ComponentEnergy, Energy

_HEADS = ("", "gross", "95 % interval", "idle", "net", "mean power", "source")
_CELL = "padding:0.15em 0.7em;text-align:right;border:0;border-top:1px solid #8884"
_SIDE = _CELL.replace("right", "left")


def table(energy: Energy) -> str:
    """The total, each component, and below what is to be known of them.

    The page's own colours are used, so that it is read as well on dark as on light.

    Args:
        energy: Of a span or a job.

    Example:
        >>> from joulelab.energy.energy import Energy
        >>> table(Energy(duration_s=1.0, absent={"gpu": "no <driver>"})).count("&lt;driver&gt;")
        1
    """
    rows = [_row(name, part, str(part.provenance)) for name, part in energy.components.items()]
    if energy.components:
        rows.append(_row("total", energy, f"{energy.duration_s:.4g} s"))
    heads = "".join(f'<th style="{_CELL}">{head}</th>' for head in _HEADS) if rows else ""
    notes = [f"{name}: {why}" for name, why in energy.absent.items()]
    notes += [energy.job_words, *energy.notes]
    below = "".join(f"<div>{escape(note)}</div>" for note in notes if note)
    return (
        f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f'<div style="opacity:0.75;font-size:90%">{below}</div>'
    )


def _row(name: str, of: Energy | ComponentEnergy, source: str) -> str:
    low_j, high_j = of.interval_j
    cells = (
        joules(of.gross_j),
        f"{joules(low_j, '')} to {joules(high_j)}",
        _known(of.idle_j),
        _known(of.net_j),
        f"{of.mean_power_w:.3g} W",
    )
    figures = "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in cells)
    head = f'<th style="{_SIDE}">{escape(name)}</th>'
    return f'<tr>{head}{figures}<td style="{_SIDE}">{escape(source)}</td></tr>'


def _known(value_j: float) -> str:
    return "" if math.isnan(value_j) else joules(value_j)
