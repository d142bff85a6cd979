"""A live view of a recording, read-only."""
