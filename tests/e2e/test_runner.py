"""The runner itself: start, stop, no orphan, busy ports, crashes, kill -9, wrong set-up."""

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import psutil
import pytest

from tests.e2e.suite import Suite, eventually

# One small service is enough to see how the runner behaves; it needs both stores.
ONE = ("--only", "analytics")


@pytest.fixture
def suite(state: Path) -> Iterator[Callable[..., Suite]]:
    """Makes suites over the shared state and ends them after the test."""
    made: list[Suite] = []

    def make(*arguments: str, **environ: str) -> Suite:
        made.append(Suite(state, *(arguments or ONE), **environ))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None:
            each.stop()


def test_an_interrupt_stops_everything_in_order_and_leaves_no_process(
    suite: Callable[..., Suite],
) -> None:
    running = suite().start()
    with urllib.request.urlopen(f"{running.url('analytics')}/livez", timeout=5) as answer:
        assert orjson.loads(answer.read())["live"] is True
    assert {"postgres", "redis-server"} <= {process.name() for process in running.processes()}
    assert running.stop() == 0
    assert running.left_behind() == []
    assert running.log.index("stopping") < running.log.index("stopped")
    assert not running.layout.suite.exists()


def test_piped_output_is_plain_and_each_line_names_its_part(suite: Callable[..., Suite]) -> None:
    running = suite().start()
    running.stop()
    assert "\x1b" not in running.log
    before_banner = running.log.split("\nGatehouse is ready")[0].strip().splitlines()
    assert all(" | " in line for line in before_banner)


def test_a_terminate_signal_stops_as_an_interrupt_does(suite: Callable[..., Suite]) -> None:
    running = suite().start()
    assert running.process is not None
    running.process.terminate()
    assert running.wait() == 0
    assert running.left_behind() == []


def test_an_interrupt_while_starting_stops_cleanly(suite: Callable[..., Suite]) -> None:
    running = suite().launch()
    assert eventually(lambda: "analytics" in running.log)
    assert running.stop() == 0
    assert running.left_behind() == []


def test_a_busy_port_is_refused_and_its_holder_named(suite: Callable[..., Suite]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        running = suite(
            *ONE, "--ports", "catalogue", ANALYTICS_PORT=str(port), OTEL_TRACES_EXPORTER="none"
        ).launch()
        assert running.wait() == 2
    assert f"port {port} is held by process {os.getpid()}" in running.log
    assert "--ports auto" in running.log


def test_a_crashed_service_is_reported_with_its_last_lines_and_ends_the_run(
    suite: Callable[..., Suite],
) -> None:
    running = suite().start()
    os.kill(running.pid("analytics"), signal.SIGKILL)
    assert running.wait() == 1
    assert "analytics ended by itself: killed by SIGKILL" in running.log
    report = running.log.split("lines:")[1]
    assert '"event":"starting"' in report
    assert running.left_behind() == []


def test_a_wrong_setting_is_shown_with_the_exit_code(suite: Callable[..., Suite]) -> None:
    running = suite(*ONE, LOG_LEVEL="loud").launch()
    assert running.wait() == 1
    assert "analytics ended by itself: exit code 2" in running.log
    assert "LOG_LEVEL" in running.log.split("lines:")[1]


def test_a_state_directory_in_use_is_refused(suite: Callable[..., Suite]) -> None:
    first = suite().start()
    second = suite().launch()
    assert second.wait() == 2
    assert first.process is not None
    assert f"process id {first.process.pid}" in second.log
    assert first.stop() == 0


def test_after_a_kill_of_the_runner_services_end_and_the_next_start_works(
    suite: Callable[..., Suite],
) -> None:
    running = suite().start()
    assert running.process is not None
    service = psutil.Process(running.pid("analytics"))
    running.process.kill()
    running.wait()
    assert eventually(lambda: not service.is_running())
    following = suite().start()
    assert following.stop() == 0
    assert running.left_behind() == []
    assert following.left_behind() == []


def test_a_second_interrupt_ends_at_once_and_leaves_no_process(
    suite: Callable[..., Suite],
) -> None:
    running = suite().start()
    assert running.process is not None
    # A stopped service cannot drain, so the first interrupt would wait for its grace.
    os.kill(running.pid("analytics"), signal.SIGSTOP)
    running.process.send_signal(signal.SIGINT)
    assert eventually(lambda: "stopping" in running.log)
    time.sleep(0.6)  # what counts as a second wish
    running.process.send_signal(signal.SIGINT)
    assert running.wait(5) == 130
    assert eventually(lambda: running.left_behind() == [])


def test_values_of_the_env_file_reach_the_services_and_the_environment_wins(
    suite: Callable[..., Suite], tmp_path: Path
) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("# local\nLOG_LEVEL=loud\nexport DRAIN_S='0'  \n")
    running = suite(*ONE, "--env-file", str(env_file), LOG_LEVEL="info").start()
    assert running.stop() == 0
    assert '"wait_s":0.0' in running.log


def test_an_unreadable_line_of_the_env_file_is_named_without_its_value(
    suite: Callable[..., Suite], tmp_path: Path
) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("A=1\nsecret phrase\n")
    running = suite(*ONE, "--env-file", str(env_file)).launch()
    assert running.wait() == 2
    assert f"{env_file}:2: expected NAME=value" in running.log
    assert "phrase" not in running.log


def test_an_unknown_service_is_refused(suite: Callable[..., Suite]) -> None:
    running = suite("--only", "oracle").launch()
    assert running.wait() == 2
    assert "no such service: oracle" in running.log
