"""A caller who leaves in the middle of a batch: a real process stops working for nobody."""

import re
import socket
import time
from pathlib import Path

import httpx2
import orjson

from tests.integration.inference.conftest import running
from tests.support.text_models import build_text_version

_TEXTS = 1_000
_TOKENS = 84  # of each text: 80 words, "good", its number, two special tokens


def _run_tokens(url: str) -> float:
    text = httpx2.get(f"{url}/metrics", timeout=10).text
    found = re.findall(r'^\w*batch_tokens_total\{[^}]*kind="real"[^}]*\} (\S+)$', text, re.M)
    return sum(map(float, found))


def test_a_batch_whose_caller_has_left_is_not_finished(
    state_dir: Path, redis_url: str, tmp_path: Path
):
    # About 2 ms per text: the whole batch would keep the process busy for seconds.
    build_text_version(tmp_path, width=512)
    environ = {"IDENTITY_MODE": "open", "TEXT_LOADING": "eager", "CACHE_TTL": "0"}
    texts = [f"good {'day ' * 80} {number}" for number in range(_TEXTS)]
    body = orjson.dumps({"texts": texts})
    with running(state_dir, redis_url, tmp_path, **environ) as service:
        url = service.url
        before = _run_tokens(url)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as caller:
            head = (
                f"POST /predict/batch HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json"
                f"\r\nX-Request-Deadline-Ms: 25000\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            caller.sendall(head.encode() + body)
            give_up_at = time.monotonic() + 20
            while _run_tokens(url) == before:
                assert time.monotonic() < give_up_at, "the batch must have begun"
        answer = httpx2.post(f"{url}/predict", json={"text": "good"}, timeout=10)
        assert (answer.status_code, answer.json()["sentiment"]) == (200, "positive")
        seen = -1.0
        while (now := _run_tokens(url)) != seen:
            seen = now
            time.sleep(0.3)
        assert 0 < seen - before < 0.7 * _TEXTS * _TOKENS
        assert httpx2.get(f"{url}/readyz", timeout=10).status_code == 200
