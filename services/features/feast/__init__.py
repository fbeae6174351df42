"""Feast's HTTP protocol: reads, pushes, writes and materializations of a remote online store."""
