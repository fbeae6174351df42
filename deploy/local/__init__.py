"""The embedded runner behind `make run`: real PostgreSQL and Redis, six services, one log."""
