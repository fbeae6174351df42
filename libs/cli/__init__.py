"""The command line: talks to a running suite through its gateway. Never imports a service."""
