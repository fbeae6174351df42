"""Routes of inference: parse, one call, shape the answer."""
