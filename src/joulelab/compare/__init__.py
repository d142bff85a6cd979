"""Compare a candidate with a baseline, runs or studies: effect, interval, test and caveats."""
