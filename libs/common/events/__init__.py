"""Events: the envelope, the registry of types, the write-ahead log and its shipper."""
