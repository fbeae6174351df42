"""Scoring of payments and of users with items: read features, run models, decide, record."""
