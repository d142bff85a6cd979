"""``joulelab llm``: energy per token of language models in service."""

from __future__ import annotations

import click


@click.group("llm")
def command() -> None:
    """Measure joules per token of language models in service."""
