"""Witness: a second process with a key of its own that cosigns checkpoints of the audit log.

Owns one fact per log: the last checkpoint it cosigned. It signs a newer one only with a proof that
the older is its prefix, so whoever holds the log's database and key still cannot rewrite what was
published. It never sees events, never talks to a database, and never forgets before it answers.
"""
