"""Whose request it is, as far as the network tells: client address and the network counted."""

from ipaddress import IPv6Address, ip_address

_V6_PREFIX_BITS = 64
UNKNOWN = "0.0.0.0"


def client_address(peer: str, forwarded_for: str, hops: int) -> str:
    """Give the caller's address.

    Args:
        peer: address of the TCP peer.
        forwarded_for: `X-Forwarded-For` as received, may be empty.
        hops: trusted proxies in front; 0 ignores the header.
    """
    if hops:
        chain = [part.strip() for part in forwarded_for.split(",") if part.strip()]
        if len(chain) >= hops:
            candidate = chain[-hops]
            try:
                return str(ip_address(candidate))
            except ValueError:
                return peer
    return peer


def network_of(address: str) -> str:
    """Give the unit that limits count: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return UNKNOWN
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        shifted = int(parsed) >> _V6_PREFIX_BITS << _V6_PREFIX_BITS
        return f"{IPv6Address(shifted)}/{_V6_PREFIX_BITS}"
    return str(parsed)
