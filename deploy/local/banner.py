"""What a person reads once everything runs: addresses, the demo key, a first request that works."""

from collections.abc import Mapping

from deploy.local.layout import Layout
from libs.common.catalog import SERVICES

# The same request stands in README.md; a test compares them.
FIRST_REQUEST = (
    '{"card_id": "card_00001234", "transaction_amount": 150.0, '
    '"merchant_id": "merchant_12345", "mcc_code": "5411", "country_code": "US"}'
)


def banner(
    layout: Layout,
    ports: Mapping[str, int],
    only: tuple[str, ...],
    stores: Mapping[str, str],
    seconds: float,
) -> str:
    """Write the banner.

    Args:
        layout: state directory.
        ports: port by service.
        only: services that run.
        stores: what holds the data and the traces, by name.
        seconds: how long the start took.
    """
    gateway = f"http://127.0.0.1:{ports['gateway']}"
    lines = ["", f"Gatehouse is ready after {seconds:.1f} s", ""]
    for name in only:
        lines.append(f"  {name:<11} http://127.0.0.1:{ports[name]:<6} {SERVICES[name].summary}")
    lines += ["", *(f"  {name:<11} {value}" for name, value in stores.items())]
    if "gateway" in only:
        lines += [
            "",
            f"  API docs    {gateway}/docs",
            f"  Console     {gateway}/console",
            f"  Demo key    {layout.demo_key} (all scopes, tenant default, exempt from the "
            "address and route limits)",
            "",
            "  First request:",
            f'    curl -s -H "X-API-Key: $(cat {layout.demo_key})" \\',
            f"      -H 'Content-Type: application/json' {gateway}/score/fraud \\",
            f"      -d '{FIRST_REQUEST}'",
        ]
    return "\n".join([*lines, "", "  Ctrl-C stops everything.", ""])
