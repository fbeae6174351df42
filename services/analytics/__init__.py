"""Analytics: exact numbers first, then words about them.

Owns per-minute roll-ups of the audit log, thresholds and their judgement, drift, comparisons of
model versions, and written reports (by Gemini when there is a key, by rules otherwise). It never
sits on the request path and is never a source of truth: everything here can be rebuilt from the
audit log.
"""
