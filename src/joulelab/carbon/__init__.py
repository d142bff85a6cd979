"""Carbon and cost of an energy: the site's settings, factors by country and over time."""
