"""Settings for the tests of sensors."""

collect_ignore = ["old_binding"]  # Its texts are those of the package that it stands in for.
