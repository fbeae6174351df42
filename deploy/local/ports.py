"""Which port each part listens on, and who holds one that is busy."""

import contextlib
import secrets
import socket
from collections.abc import Iterable, Mapping

from libs.common.catalog import NEIGHBOUR_PORTS, SERVICES

LOOPBACK = "127.0.0.1"
# The runner's own trace sink, beside the six services.
SINK = "otlp_sink"
# The small process that cosigns audit's checkpoints; it runs whenever audit does.
WITNESS = "witness"
# Above the usual services, below what Linux, macOS and Windows give to outgoing connections.
_AUTO_PORTS = range(10_000, 32_000)
_TRIES_PER_PORT = 100


class PortBusyError(Exception):
    """A port is taken; the text names the holder and says what to change."""


def choose_ports(environ: Mapping[str, str], *, auto: bool) -> dict[str, int]:
    """Give a port to every service, to the trace sink and to the witness.

    Args:
        environ: `GATEWAY_PORT` (or `API_PORT`), `INFERENCE_PORT`, ... override the catalogue.
        auto: take free ports instead, so that several suites run side by side.
    """
    names = [*SERVICES, SINK, WITNESS]
    if auto:
        return dict(zip(names, free_ports(len(names)), strict=True))
    ports = {name: service.port for name, service in SERVICES.items()}
    ports |= {name: NEIGHBOUR_PORTS[name] for name in (SINK, WITNESS)}
    for name in names:
        value = environ.get(f"{name.upper()}_PORT", "")
        if name == "gateway":
            value = value or environ.get("API_PORT", "")
        if value.isdigit() and int(value):
            ports[name] = int(value)
    return ports


def free_ports(count: int) -> list[int]:
    """Choose free ports at random, all different.

    The kernel is not asked for them: its own come from the range of outgoing connections, one of
    which may take the port before its service does.
    """
    chosen: set[int] = set()
    for _ in range(_TRIES_PER_PORT * count):
        port = secrets.choice(_AUTO_PORTS)
        if _can_bind(port):
            chosen.add(port)
        if len(chosen) == count:
            return list(chosen)
    raise PortBusyError(f"Between {_AUTO_PORTS[0]} and {_AUTO_PORTS[-1]} hardly a port is free.")


def free_port() -> int:
    """Choose one free port."""
    return free_ports(1)[0]


def check_free(ports: Mapping[str, int], names: Iterable[str]) -> None:
    """Make sure that the ports of `names` can be bound.

    Raises:
        PortBusyError: one cannot; all busy ones are listed with their holders.
    """
    busy = [(name, ports[name]) for name in names if not _can_bind(ports[name])]
    if not busy:
        return
    lines = [f"  {name}: port {port} is held by {holder_of(port)}" for name, port in busy]
    first = busy[0][0].upper()
    raise PortBusyError(
        "These ports are busy:\n"
        + "\n".join(lines)
        + f"\nStop the holder, set {first}_PORT to another port, or run with --ports auto."
    )


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As uvicorn does: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def holder_of(port: int) -> str:
    """Describe the process that listens on a port, as far as this user may know."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                if connection.pid is None:
                    break
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline()) or process.name()
                return f"process {connection.pid} ({command[:80]})"
    return "a process of another user"
