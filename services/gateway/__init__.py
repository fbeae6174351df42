"""The one door of Gatehouse.

Owns: identity (API keys, tokens, roles, tenants), ingress limits, routing, the merged API
description and the console. Never does: models, business logic, reading of bodies it need not read.
"""
