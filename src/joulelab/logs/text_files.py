"""Text files of other tools: encoding, compression, and lines of limited length and number."""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from joulelab.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
ENCODING_BYTES = 4096
BLOCK_CHARACTERS = 1 << 18
LONGEST_LINE = 100_000  # Characters. The csv module refuses cells of more than 131,072.
MOST_LINES = 30_000_000  # More readings would not fit into the memory of a usual machine.


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, decompressing gzip content; raise a :class:`UserError` if it is damaged."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        opener = gzip.open if packed else open
        with opener(path, "rb") as file:
            encoding = _encoding(file.read(ENCODING_BYTES), path)
        with opener(path, "rt", encoding=encoding, errors="replace") as text:
            yield text
    except EOFError as error:
        raise UserError(
            f"cannot read {path}", why="the gzip file is cut short", hint="copy it again"
        ) from error
    except csv.Error as error:
        raise UserError(f"cannot read {path}", why=f"not a CSV file: {error}") from error
    except (OSError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read {path}", why=why.lower()) from error


def _encoding(beginning: bytes, path: Path) -> str:
    """Choose UTF-8, or UTF-16, which PowerShell writes when output is redirected to a file."""
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Property lists, which are text, are separated by NUL.
    if b"\0" in beginning and not beginning.startswith(b"<?xml"):
        raise UserError(f"{path} is not a text file", hint="give a CSV file, plain or gzip")
    return "utf-8-sig"


def read_lines(file: TextIO, longest: int = LONGEST_LINE) -> Iterator[str]:
    """Iterate over lines of limited length and number, with their line ends."""
    return itertools.chain.from_iterable(read_blocks(file, longest))


def read_blocks(file: TextIO, longest: int = LONGEST_LINE) -> Iterator[list[str]]:
    """Iterate over parts of a file, as lines of limited length and number that are not empty."""
    number, rest = 0, ""
    while block := file.read(BLOCK_CHARACTERS):
        *lines, rest = f"{rest}{block}".split("\n")
        if len(rest) > longest or max(map(len, lines), default=0) > longest:
            raise UserError(
                f"cannot read {file.name}",
                why=f"it has a line of more than {longest:,} characters",
                hint="give a table with one reading per line",
            )
        number += len(lines)
        if number > MOST_LINES:
            raise UserError(
                f"cannot read {file.name}",
                why=f"it has more than {MOST_LINES:,} lines",
                hint="split it",
            )
        yield [f"{line}\n" for line in lines]
    if rest:
        yield [rest]
