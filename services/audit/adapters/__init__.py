"""I/O of audit: the sequencer, reads, keys, checkpoints."""
