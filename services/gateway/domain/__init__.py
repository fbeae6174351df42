"""Decisions of the gateway as pure functions: no I/O, no framework, the clock is passed in."""
