"""Workloads to measure: training, inference and idling, with their data sets."""
