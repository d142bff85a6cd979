"""Figures: each a function from the material to a figure.

Each raises :class:`~joulelab.report.figure.NothingToDraw`, with the reason, where its data are
missing: an empty axis is never drawn.
"""
