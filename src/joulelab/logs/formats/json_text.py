"""JSON in logs: one document, a list, or objects one after another with other text between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from joulelab.logs.formats.log_text import LONGEST_RECORD, STAMP_PREFIX, LogText
from joulelab.logs.text_files import open_text, read_lines


def json_objects(log: LogText) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Iterate over the objects of a log; lists of objects count as objects one after another.

    Each comes with the time that a loop wrote before it. Objects that are cut short or damaged are
    left out with a note.
    """
    text, decoder = log.text(), json.JSONDecoder()
    position, damaged = 0, 0
    latest: str | None = None
    while True:
        start = text.find("{", position)
        if start < 0:
            break
        before = text[position:start]
        for line in before.splitlines():
            if match := STAMP_PREFIX.match(line.lstrip("[], ") + "\n"):
                latest = match[1]
        try:
            found, position = decoder.raw_decode(text, start)
            yield latest, found
        except (json.JSONDecodeError, RecursionError):
            damaged += 1
            following = re.compile(r"\n\s*[\[{]").search(text, start)
            if following is None:
                break
            position = following.start()
    if damaged:
        log.notes.append("skipped parts of the JSON that are damaged or cut short")


def mllog_events(log: LogText) -> Iterator[dict[str, Any]]:
    """Iterate over the events of MLPerf's ``:::MLLOG`` lines, which have a key and a time.

    Lines that are damaged are left out with a note.
    """
    damaged = 0
    with open_text(log.path) as file:
        # A last line without its end shows itself whether it is cut short.
        for text in read_lines(file, LONGEST_RECORD):
            marker, brace, rest = text.partition("{")
            if ":::MLLOG" not in marker:
                continue
            try:
                event = json.loads(brace + rest)
            except (ValueError, RecursionError):
                event = None
            if isinstance(event, dict) and {"key", "time_ms"} <= event.keys():
                yield event
            else:
                damaged += 1
    log.skipped(damaged, "that are damaged")
