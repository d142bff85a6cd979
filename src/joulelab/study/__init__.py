"""Studies: plans, the runner that measures their cells, and the directory that stores them."""
