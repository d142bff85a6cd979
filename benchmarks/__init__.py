"""Benchmarks of JouleLab, some in comparison with other tools. See docs/reference/benchmarks.md."""
