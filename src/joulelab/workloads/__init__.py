"""What is run while the meter runs: training, inference, idle."""
