"""Pure functions from a trace, a span and a baseline to energy."""
