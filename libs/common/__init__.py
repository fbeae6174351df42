"""What all services share: wire contracts, middleware, clients, the event log. Knows no service."""
