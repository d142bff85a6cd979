"""The recorder process, the trace it writes, and spans."""
