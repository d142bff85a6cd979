"""Plans, the runner, and the store of runs."""
