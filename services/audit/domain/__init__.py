"""The pure core of the log: Merkle tree, tiles, signed notes, leaves, proofs. No I/O."""
