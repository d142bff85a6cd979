"""Studies from logs of other tools: spans, descriptions of models and machine, and records."""
