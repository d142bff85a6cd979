"""Findings of studies: tables with intervals, and what they show in plain sentences.

:func:`joulelab.findings.all.analyze` derives everything from
:class:`~joulelab.findings.tables.StudyTables`. In all modules, ``runs`` is
:func:`~joulelab.findings.tables.run_table` and ``measured`` are rows of
:func:`~joulelab.findings.summary.measurements`; other tables are named after the function that
makes them.
"""
