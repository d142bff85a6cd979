"""Statistics of repeats: estimates, variances, differences of groups, rank correlations, bends."""
