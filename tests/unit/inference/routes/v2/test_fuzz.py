"""Whatever comes in, the answer is a refusal that names what is wrong, never a defect of ours."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.errors import PayloadTooLargeError
from services.inference.domain.tensors import DATATYPES
from services.inference.routes.v2.errors import V2BadRequestError
from services.inference.routes.v2.messages import decode_request, decompress
from tests.unit.inference.conftest import MemoryEvents
from tests.unit.inference.text_app import build_texts, text_app

scalars = st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=4)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
sizes = st.lists(st.integers(-1, 4) | scalars, max_size=4)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["text", "INPUT0", "x"]) | anything,
        "shape": sizes | anything,
        "datatype": st.sampled_from([*DATATYPES, "BF16"]) | anything,
        "data": st.lists(anything, max_size=4) | anything,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-1, 40) | anything}
        )
        | anything,
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "id": anything,
        "inputs": st.lists(tensors, max_size=3) | anything,
        "outputs": st.lists(
            st.fixed_dictionaries(
                {}, optional={"name": st.just("label") | anything, "parameters": anything}
            ),
            max_size=3,
        )
        | anything,
        "parameters": st.fixed_dictionaries(
            {},
            optional={
                "priority": anything,
                "timeout": st.integers(-1, 10**7) | anything,
                "binary_data_output": anything,
            },
        )
        | anything,
    },
)


@settings(deadline=None)
@given(documents | anything, st.binary(max_size=40), st.integers(-60, 60) | st.none())
def test_decoding_refuses_or_reads_but_never_breaks(document: Any, tail: bytes, shift: int | None):
    header = json.dumps(document).encode("utf-8", "surrogatepass")
    length = None if shift is None else str(len(header) + shift)
    with contextlib.suppress(V2BadRequestError):
        decode_request(header + (tail if length else b""), length)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "br", ""]))
def test_decompression_refuses_or_reads_but_never_breaks(body: bytes, encoding: str):
    with contextlib.suppress(V2BadRequestError, PayloadTooLargeError):
        decompress(body, encoding)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_texts(tmp_path_factory.mktemp("texts"))


@pytest.mark.anyio
async def test_no_body_makes_a_server_error(models: Path, state_dir: Path):
    """Draws bodies inside one app: starting it for each example would take minutes."""
    drawn: list[tuple[str, Any]] = []

    @settings(
        max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(
        st.sampled_from(
            [
                "/v2/models/sentiment/infer",
                "/v2/models/simple/infer",
                "/v2/repository/index",
                "/v2/repository/models/nobody/load",
                "/predict",
                "/predict/batch",
                "/v1/models/guard/predict",
            ]
        ),
        documents | anything,
    )
    def collect(path: str, document: Any) -> None:
        drawn.append((path, document))

    collect()
    async with text_app(models, state_dir, MemoryEvents()) as (client, _):
        for path, document in drawn:
            raw = json.dumps(document).encode("utf-8", "surrogatepass")
            answer = await client.post(path, content=raw)
            assert answer.status_code < 500, (path, document, answer.text)
            if answer.status_code >= 400 and path.startswith("/v2"):
                assert list(answer.json()) == ["error"]
