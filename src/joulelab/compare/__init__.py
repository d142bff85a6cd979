"""Whether two sides, jobs or studies, differ in energy: effect, interval, test, and doubts."""
