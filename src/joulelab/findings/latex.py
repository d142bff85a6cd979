"""Tables as LaTeX, with the rules of the booktabs package."""

from __future__ import annotations

import pandas as pd

LONG = 40
"""Tables with more rows are set over several pages, by the longtable package."""

_ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
        "−": "$-$",
        "–": "--",
        "×": r"$\times$",
        "±": r"$\pm$",
        "µ": r"\textmu{}",
        "²": "$^2$",
        "ρ": r"$\rho$",
        "τ": r"$\tau$",
        "·": r"$\cdot$",
    }
)


def escaped(text: str) -> str:
    r"""A text that LaTeX sets as it is.

    Example:
        >>> print(escaped("50 % of my_model"))
        50 \% of my\_model
    """
    return text.translate(_ESCAPED)


def latex(table: pd.DataFrame, caption: str, label: str) -> str:
    r"""A ``table`` environment, or a ``longtable`` of many rows; all texts are escaped.

    Args:
        table: Of texts; what is not known is an empty cell.
        caption: Stands above.
        label: For ``\ref``.

    Example:
        >>> print(latex(pd.DataFrame({"model": ["my_net"]}), "Models", "tab:models"))
        \begin{table}
        \caption{Models}
        \label{tab:models}
        \begin{tabular}{l}
        \toprule
        model \\
        \midrule
        my\_net \\
        \bottomrule
        \end{tabular}
        \end{table}
        <BLANKLINE>
    """
    texts = table.astype("string").fillna("").map(escaped)
    texts.columns = [escaped(str(name)) for name in table.columns]
    return texts.to_latex(
        index=False,
        escape=False,
        caption=escaped(caption),
        label=label,
        column_format="l" * len(table.columns),
        longtable=len(table) > LONG,
    )
