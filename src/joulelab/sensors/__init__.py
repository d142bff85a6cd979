"""The one seam to the outside world: what is read, and where from."""
