"""What a model will take that was never run, from the operators of one step."""
