"""Outside data, published figures and ours side by side; one command per table."""
