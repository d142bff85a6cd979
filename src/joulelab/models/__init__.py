"""The paper's models, a registry, and model characteristics."""
