"""What a run will cost before it is run: from a short one, or from the model alone."""
