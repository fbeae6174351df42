"""Pure logic of the features service: definitions, events to records, the ring."""
