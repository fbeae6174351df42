"""What guardrails reaches over I/O: Redis, PostgreSQL, inference, secrets on disk."""
