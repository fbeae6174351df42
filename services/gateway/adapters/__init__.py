"""I/O of the gateway: the ASGI edge, the proxy, PostgreSQL, Redis, health and API polling."""
