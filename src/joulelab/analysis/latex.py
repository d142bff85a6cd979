"""Tables as LaTeX, with the rules of the booktabs package."""

from __future__ import annotations

import pandas as pd


def latex(table: pd.DataFrame, caption: str, label: str) -> str:
    r"""A ``table`` environment of these texts; every cell is escaped, headings too."""
    return table.to_latex(index=False, escape=True, caption=caption, label=label)
