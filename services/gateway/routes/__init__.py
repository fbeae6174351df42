"""Routes of the gateway itself; everything else is proxied."""
