"""How fast and how surely fingerprints are turned back into atoms."""
