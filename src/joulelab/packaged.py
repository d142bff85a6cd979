"""Tables that come with JouleLab, as CSV with comments."""

import csv
from collections.abc import Iterator
from importlib import resources


def packaged_rows(package: str, path: str) -> Iterator[dict[str, str]]:
    """Read the rows of a CSV file in a package, without lines that begin with ``#``."""
    text = resources.files(package).joinpath(path).read_text("utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
