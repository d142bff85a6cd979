"""Power limits and clocks of devices. They are borrowed: a guard restores the values it found."""
