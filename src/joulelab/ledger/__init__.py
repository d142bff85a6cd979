"""Add up the energy, carbon and cost of all runs of a project, and compare models by it."""
