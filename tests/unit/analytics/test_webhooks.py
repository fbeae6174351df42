"""Webhooks go to listed, public places only, and are signed as the specification says."""

import pytest

from services.analytics.domain.webhooks import (
    ATTEMPTS_MAX,
    Destinations,
    headers_of,
    is_public,
    origin_of,
    secret_of,
    wait_after,
)


def test_the_signature_is_that_of_the_specifications_example():
    headers = headers_of(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1",
     "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "2002:7f00:1::",
     "198.18.0.1", "not an address"],
)  # fmt: skip
def test_addresses_that_are_not_out_on_the_internet_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_out_on_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://hooks.example.com/a?b=c", True),
        ("https://HOOKS.example.com./a", True),
        ("https://hooks.example.com:443/a", True),
        ("https://hooks.example.com:8443/a", False),
        ("http://hooks.example.com/a", False),
        ("https://evil.example.com/", False),
        ("https://hooks.example.com.evil.com/", False),
        ("https://hooks.example.com@evil.com/", False),
        ("https://user@hooks.example.com/", False),
        ("https://hooks.example.com\\@evil.com/", False),
        ("https://hooks.example.com\n/", False),
        ("https:///path", False),
        ("ftp://hooks.example.com/", False),
        ("file:///etc/passwd", False),
        ("https://hooks.example.com:99999/", False),
        ("http://10.0.0.9:9000/hook", True),
        ("http://10.0.0.9/hook", False),
        ("", False),
    ],
)
def test_only_listed_origins_are_allowed(url, allowed):
    destinations = Destinations(
        ["https://hooks.example.com", "http://plain.example.com"], ["http://10.0.0.9:9000"]
    )
    assert destinations.allows(url) is allowed


def test_plain_http_is_not_allowed_from_the_public_list():
    assert not Destinations(["http://plain.example.com"], []).allows("http://plain.example.com/")
    assert origin_of("http://plain.example.com/") is not None


def test_each_tenant_and_version_has_a_secret_of_its_own():
    secrets = {secret_of("m" * 16, tenant, version) for tenant in "ab" for version in (1, 2)}
    assert len(secrets) == 4
    assert all(secret.startswith("whsec_") for secret in secrets)


def test_waits_grow_and_end():
    waits = [wait_after(attempts) for attempts in range(1, ATTEMPTS_MAX + 1)]
    assert waits[-1] is None
    known = [wait for wait in waits if wait is not None]
    assert known == sorted(known)
    assert len(known) == ATTEMPTS_MAX - 1
