"""Benchmarks: one command each; each prints a table and says what it measured."""
