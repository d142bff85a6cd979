"""Jobs: any command that was measured as a whole, and what is kept of it."""
