"""The use cases: gather, decide, journal, apply."""
