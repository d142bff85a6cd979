"""Benches of JouleLab, some beside its peers. See docs/benchmarks.md."""
