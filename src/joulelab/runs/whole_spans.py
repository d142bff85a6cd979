"""The spans of a run's record. Imports nothing: whoever only adds up needs no more."""

WHOLE_SPANS = ("idle", "warmup", "epoch", "validate")
"""Spans that do not lie within one another; together they are what a run spent."""
