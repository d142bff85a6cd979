"""Models by name, and their size and work per sample."""
