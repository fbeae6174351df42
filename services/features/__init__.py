"""Owns feature definitions, ingestion, windows, the online layout and their history.

It never scores and knows no model. Postgres holds the raw events and a gap-free log per partition;
Redis holds rings that can be lost and rebuilt from it. Scoring reads the rings through
`libs.common.features`, without a call to this service.
"""
