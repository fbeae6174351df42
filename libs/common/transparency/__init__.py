"""The pure core of a transparency log: Merkle tree, tiles, signed notes, leaves, proofs.

Shared by the log (services.audit), by the witness that watches it, and by whoever verifies offline.
No I/O except `crypto`, which checks signatures.
"""
