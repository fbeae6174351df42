"""Engines and stores behind the ports of `domain/ports.py`; heavy imports are lazy."""
