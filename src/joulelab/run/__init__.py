"""Measure any command while it runs: ``joulelab run``."""
