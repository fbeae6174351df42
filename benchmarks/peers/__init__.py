"""Clients and servers that we are compared with, each in an environment of its own."""
