"""Input and output of analytics: PostgreSQL, Redis, the audit log, Gemini."""
