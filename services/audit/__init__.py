"""Audit: the event log, its proofs, personal-data keys and search.

Owns the one order of events: a gap-free index, an RFC 6962 tree over commitments, signed
checkpoints, tiles, and the keys under which personal fields are sealed. It is never on the path of
a request: services write to their local log first and ship to audit afterwards.
"""
