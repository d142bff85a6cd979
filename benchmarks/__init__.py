"""Benches of JouleLab, some beside its peers. See docs/reference/benchmarks.md."""
