"""A small client for scoring."""
