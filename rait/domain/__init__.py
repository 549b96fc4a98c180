"""The functional core: immutable values and pure functions.

Nothing in this package reads a clock, a file, the environment or a random number.
"""
