"""Postgres log, Redis rings, and the applier between them."""
