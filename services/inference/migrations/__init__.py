"""Revisions of the schema `inference`."""
