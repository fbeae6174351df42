"""Gatehouse's Python client: `GatehouseClient(url, api_key).score_fraud(...)`; standard library."""

from libs.client.client import GatehouseClient, GatehouseError

__all__ = ["GatehouseClient", "GatehouseError"]
