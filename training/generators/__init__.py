"""Our own event generators: payments with fraud, shop sessions with purchases.

Every draw is a hash of (seed, entity, day, counter), so an entity's events do not depend on which
other entities are generated, and the same seed gives the same bytes.
"""
