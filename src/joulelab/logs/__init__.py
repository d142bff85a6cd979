"""Logs that other tools recorded: reading them, energy per span, and calibration from a meter."""
