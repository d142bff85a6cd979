"""Programs that damage, kill and flood JouleLab, and check that nothing is lost or raised."""
