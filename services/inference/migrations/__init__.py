"""Revisions of the schema `inference`; none yet: aliases and rollouts bring the first."""
