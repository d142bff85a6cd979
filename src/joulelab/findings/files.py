"""Derived files, written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from joulelab.storage import file_errors, write_whole


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes a file that is either as before or complete, also after a power cut.

    Raises:
        StoreError: It cannot be written.
    """
    with file_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return path


def parquet(frame: pd.DataFrame) -> bytes:
    """A table as a Parquet file, without pandas' own metadata, which names its version."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    target = io.BytesIO()
    pq.write_table(table, target, compression="zstd")
    return target.getvalue()
