"""The small parts of the runner: `.env`, ports, options, log lines, environment, trace sink."""

import gzip
import io
import os
import socket
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.local import environment
from deploy.local.children import ROOT, describe_exit
from deploy.local.console import Console
from deploy.local.dotenv import DotenvError, read_dotenv
from deploy.local.layout import Layout
from deploy.local.options import parse
from deploy.local.ports import PortBusyError, check_free, choose_ports
from deploy.local.reload import affected
from deploy.local.runner import STAGES
from deploy.local.sink import EXPANDED_BYTES_MAX, SpanStore, TooLargeError, expand
from libs.common.catalog import SERVICES


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("export A=1", {"A": "1"}),
        ("A='x # y'", {"A": "x # y"}),
        ("A=x#y # why", {"A": "x#y"}),
        ("A=", {}),
        ("# A=1", {}),
        ("A=b=c", {"A": "b=c"}),
    ],
)
def test_a_line_of_the_env_file_is_read(
    tmp_path: Path, line: str, expected: dict[str, str]
) -> None:
    (tmp_path / "e").write_text(line)
    assert read_dotenv(tmp_path / "e") == expected


def test_a_line_that_is_no_assignment_is_refused_by_number(tmp_path: Path) -> None:
    (tmp_path / "e").write_text("\n\nnot one")
    with pytest.raises(DotenvError, match=":3:"):
        read_dotenv(tmp_path / "e")


def test_stages_hold_every_service_once_and_end_with_the_gateway() -> None:
    names = [name for stage in STAGES for name in stage]
    assert sorted(names) == sorted(SERVICES)
    assert STAGES[-1] == ("gateway",)
    # What emits events is stopped before audit, which takes them.
    assert STAGES[0] == ("audit",)


def test_ports_come_from_the_catalogue_unless_the_environment_says_otherwise() -> None:
    assert choose_ports({}, auto=False)["gateway"] == SERVICES["gateway"].port
    assert choose_ports({"API_PORT": "9000"}, auto=False)["gateway"] == 9000
    both = {"API_PORT": "9000", "GATEWAY_PORT": "9001"}
    assert choose_ports(both, auto=False)["gateway"] == 9001


def test_automatic_ports_differ() -> None:
    ports = choose_ports({}, auto=True)
    assert len(set(ports.values())) == len(SERVICES) + 2


def test_automatic_ports_are_not_those_of_outgoing_connections() -> None:
    lowest = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not lowest.exists():
        pytest.skip("this system does not tell its range")
    assert max(choose_ports({}, auto=True).values()) < int(lowest.read_text().split()[0])


def test_a_busy_port_is_named_with_its_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortBusyError, match=f"port {port} is held by process {os.getpid()}"):
            check_free({"audit": port}, ["audit"])


def test_only_keeps_catalogue_order_and_refuses_unknown_names() -> None:
    assert parse(["--only", "audit,gateway"]).only == ("gateway", "audit")
    with pytest.raises(SystemExit):
        parse(["--only", "oracle"])


def test_a_change_of_a_service_concerns_it_alone_and_a_change_of_libs_all() -> None:
    running = ("gateway", "audit")
    assert affected([ROOT / "services/audit/app.py"], running) == ["audit"]
    assert affected([ROOT / "services/features/app.py"], running) == []
    assert affected([ROOT / "libs/common/app.py"], running) == ["gateway", "audit"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_without_no_color() -> None:
    for stream, environ, coloured in (
        (_Terminal(), {}, True),
        (_Terminal(), {"NO_COLOR": "1"}, False),
        (io.StringIO(), {}, False),
    ):
        Console(stream, environ).line("audit", "hello")
        assert ("\x1b[3" in stream.getvalue()) is coloured
        assert "hello" in stream.getvalue()


def test_progress_is_lines_when_piped_and_a_bar_on_a_terminal() -> None:
    piped, terminal = io.StringIO(), _Terminal()
    Console(piped, {}).progress("seed", 5, 10)
    Console(terminal, {}).progress("seed", 5, 10)
    assert "seed 5/10" in piped.getvalue()
    assert "#####" in terminal.getvalue()


def test_children_get_peers_ports_and_stores(tmp_path: Path) -> None:
    ports = choose_ports({}, auto=True)
    child = environment.child_environment(
        {"DATABASE_URL": "postgresql://db/x"},
        Layout(tmp_path),
        ports,
        postgres_url=None,
        redis_url="unix:///r",
        is_terminal=False,
    )
    assert child["POSTGRES_URL"] == "postgresql://db/x"
    assert child["REDIS_URL"] == "unix:///r"
    assert child["AUDIT_URL"] == f"http://127.0.0.1:{ports['audit']}"
    assert child["AUDIT_PORT"] == str(ports["audit"])
    assert "LOG_FORMAT" not in child


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL")]
)
def test_an_exit_is_described(code: int, text: str) -> None:
    assert describe_exit(code) == text


def _request(count: int, trace: int = 1) -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    attribute = resource.resource.attributes.add()
    attribute.key, attribute.value.string_value = "service.name", "gatehouse-test"
    spans = resource.scope_spans.add().spans
    for number in range(count):
        span = spans.add()
        span.trace_id, span.span_id = trace.to_bytes(16), (number + 1).to_bytes(8)
        span.name, span.kind = f"span {number}", 2
        span.start_time_unix_nano, span.end_time_unix_nano = number, number + 2_000_000
    return bytes(request.SerializeToString())


def test_the_sink_keeps_the_newest_spans_only() -> None:
    store = SpanStore(spans_max=3)
    assert store.add(_request(5)) == 5
    assert [span["name"] for span in store.newest(10)] == ["span 4", "span 3", "span 2"]


def test_the_sink_gives_a_trace_with_service_kind_and_duration() -> None:
    store = SpanStore()
    store.add(_request(2, trace=7))
    spans = store.trace((7).to_bytes(16).hex())
    assert [span["name"] for span in spans] == ["span 0", "span 1"]
    assert spans[0]["service"] == "gatehouse-test"
    assert spans[0]["kind"] == "server"
    assert spans[0]["duration_ms"] == 2.0
    assert store.traces(10)[0]["spans"] == 2


def test_the_sink_refuses_what_is_no_request_and_what_expands_without_end() -> None:
    with pytest.raises(ValueError, match="not an ExportTraceServiceRequest"):
        SpanStore().add(b"\xff\xff\xff")
    with pytest.raises(TooLargeError):
        expand(gzip.compress(b"\0" * (EXPANDED_BYTES_MAX + 1)), "gzip")
    with pytest.raises(ValueError, match="broken"):
        expand(b"nonsense", "gzip")
    assert expand(gzip.compress(b"abc"), "gzip") == b"abc"
