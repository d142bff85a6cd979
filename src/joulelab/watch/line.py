"""A view in one plain line, for logs and pipes. Pure."""

from __future__ import annotations

import math

from joulelab.watch.model import View
from joulelab.watch.words import amount, clock, printable


def line(view: View) -> str:
    """The line.

    Example:
        >>> line(View(title="train.py", state="waiting", state_words="no reading yet"))
        'train.py: waiting (no reading yet)'
    """
    words = f" ({view.state_words})" if view.state_words else ""
    parts = [f"{view.state}{words}"]
    if math.isfinite(view.elapsed_s):
        parts.append(clock(view.elapsed_s))
    if view.study is not None:
        parts.append(f"{view.study.done} of {view.study.cells} cells, so far {view.study.spent}")
    if view.components:
        each = ", ".join(f"{one.name} {amount(one.power_w, 'W')}" for one in view.components)
        parts.append(f"{amount(view.power_w, 'W')} ({each})")
    if view.energy is not None:
        low, high = (amount(end, "J") for end in view.energy.interval_j)
        parts.append(f"{amount(view.energy.gross_j, 'J')} ({low} to {high})")
    parts += [" > ".join(span.label for span in stack.spans) for stack in view.stacks]
    return printable(f"{view.title}: {'; '.join(parts)}")
