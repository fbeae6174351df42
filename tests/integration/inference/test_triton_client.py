"""NVIDIA's own clients, sync and aio, against a real process of the service."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from libs.common.manifest import Manifest, ManifestError
from services.inference.adapters.loading import LoadOptions, load_model, prove
from tests.integration.inference.conftest import running
from tests.support.text_models import (
    GUARD_LABELS,
    build_guard_version,
    build_simple_version,
    build_text_version,
)

triton = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def url(state_dir: Path, redis_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("models")
    build_text_version(root)
    build_guard_version(root)
    build_simple_version(root)
    environ = {"IDENTITY_MODE": "open", "TEXT_LOADING": "eager"}
    with running(state_dir, redis_server.url, root, **environ) as service:
        yield service.url.removeprefix("http://")


@pytest.fixture
def client(url: str):
    with triton.InferenceServerClient(url, concurrency=2, network_timeout=20) as opened:
        yield opened


def _simple_inputs(*, binary: bool):
    left = np.arange(16, dtype=np.int32).reshape(1, 16)
    right = np.ones((1, 16), dtype=np.int32)
    inputs = []
    for name, value in (("INPUT0", left), ("INPUT1", right)):
        tensor = triton.InferInput(name, [1, 16], "INT32")
        tensor.set_data_from_numpy(value, binary_data=binary)
        inputs.append(tensor)
    return inputs, left, right


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_simple_adds_and_subtracts(client, binary_in, binary_out, compression):
    inputs, left, right = _simple_inputs(binary=binary_in)
    outputs = [
        triton.InferRequestedOutput("OUTPUT0", binary_data=binary_out),
        triton.InferRequestedOutput("OUTPUT1", binary_data=not binary_out),
    ]
    result = client.infer(
        "simple",
        inputs,
        outputs=outputs,
        request_id="abc",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert (result.as_numpy("OUTPUT0") == left + right).all()
    assert (result.as_numpy("OUTPUT1") == left - right).all()
    assert result.get_response()["id"] == "abc"


def test_without_named_outputs_all_come_as_binary(client):
    inputs, left, right = _simple_inputs(binary=True)
    result = client.infer("simple", inputs, model_version="1")
    assert (result.as_numpy("OUTPUT0") == left + right).all()
    assert "parameters" in result.get_output("OUTPUT1")


def test_inputs_of_both_kinds_mix_and_classes_are_ranked(client):
    inputs, _, right = _simple_inputs(binary=True)
    inputs[1].set_data_from_numpy(right, binary_data=False)
    wanted = [triton.InferRequestedOutput("OUTPUT0", class_count=2)]
    result = client.infer("simple", inputs, outputs=wanted)
    assert result.as_numpy("OUTPUT0").tolist() == [[b"16.000000:15", b"15.000000:14"]]


@pytest.mark.parametrize("binary", [True, False])
def test_texts_give_probabilities_labels_and_windows(client, binary):
    texts = np.array(["good", "bad", "fine day"], dtype=np.object_)
    tensor = triton.InferInput("text", [3], "BYTES")
    tensor.set_data_from_numpy(texts, binary_data=binary)
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary)
        for name in ("probabilities", "label", "windows")
    ]
    result = client.infer("sentiment", [tensor], outputs=outputs, priority=1, timeout=5_000_000)
    assert result.as_numpy("probabilities").shape == (3, 3)
    labels = [x if isinstance(x, bytes) else x.encode() for x in result.as_numpy("label")]
    assert labels == [b"positive", b"negative", b"neutral"]
    assert result.as_numpy("windows").tolist() == [1, 1, 1]


def test_long_texts_are_windowed_and_a_hidden_attack_is_found(client):
    calm = "the day was fine " * 40
    texts = np.array([calm, calm + "evil evil evil " + calm], dtype=np.object_)
    tensor = triton.InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(texts)
    result = client.infer("guard", [tensor])
    scores = result.as_numpy("probabilities")[:, GUARD_LABELS.index("injection")]
    assert scores[1] > 0.5 > scores[0]
    assert result.as_numpy("label").tolist() == [b"none", b"injection"]
    assert min(result.as_numpy("windows")) > 10


def test_health_metadata_and_configuration(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("simple", "7")
    server = client.get_server_metadata()
    assert "binary_tensor_data" in server["extensions"]
    metadata = client.get_model_metadata("simple")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]}
    config = client.get_model_config("guard")
    assert config["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert config["parameters"]["labels"] == list(GUARD_LABELS)


def test_statistics_count_calls_and_executions(client):
    inputs, _, _ = _simple_inputs(binary=True)
    before = client.get_inference_statistics("simple")["model_stats"][0]
    client.infer("simple", inputs)
    after = client.get_inference_statistics("simple")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["execution_count"] == before["execution_count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert {entry["name"] for entry in client.get_inference_statistics()["model_stats"]} >= {
        "simple",
        "guard",
    }


def test_the_repository_lists_unloads_and_loads(client):
    states = {item["name"]: item["state"] for item in client.get_model_repository_index()}
    assert states["simple"] == "READY"
    client.unload_model("simple")
    assert not client.is_model_ready("simple")
    states = {item["name"]: item["state"] for item in client.get_model_repository_index()}
    assert states["simple"] in {"UNAVAILABLE", "UNLOADING"}
    inputs, left, right = _simple_inputs(binary=True)
    with pytest.raises(triton.InferenceServerException, match="unknown model: 'simple'"):
        client.infer("simple", inputs)
    client.load_model("simple")
    assert (client.infer("simple", inputs).as_numpy("OUTPUT1") == left - right).all()
    with pytest.raises(triton.InferenceServerException, match="unknown model"):
        client.load_model("nobody")
    with pytest.raises(triton.InferenceServerException, match="manifest"):
        client.load_model("simple", config='{"max_batch_size": 2}')


def _other_input(name: str, shape: list[int], datatype: str, value: np.ndarray):
    tensor = triton.InferInput(name, shape, datatype)
    tensor.set_data_from_numpy(value)
    return tensor


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"INPUT0": None}, "400", "missing required input"),
        ({"INPUT0": ([1, 16], "INT64", np.int64)}, "400", "data-type is 'INT64'"),
        ({"INPUT0": ([1, 15], "INT32", np.int32)}, "400", "unexpected shape"),
        ({"INPUT2": ([1, 16], "INT32", np.int32)}, "400", "unexpected inference input"),
    ],
)
def test_wrong_tensors_are_named(client, change, status, message):
    inputs, _, _ = _simple_inputs(binary=True)
    for name, spec in change.items():
        inputs = [tensor for tensor in inputs if tensor.name() != name]
        if spec is not None:
            shape, datatype, dtype = spec
            inputs.append(_other_input(name, shape, datatype, np.zeros(shape, dtype)))
    with pytest.raises(triton.InferenceServerException, match=message) as caught:
        client.infer("simple", inputs)
    assert caught.value.status() == status


def test_unknown_models_outputs_and_versions_are_named(client):
    inputs, _, _ = _simple_inputs(binary=True)
    wrong = [triton.InferRequestedOutput("OUTPUT9")]
    with pytest.raises(triton.InferenceServerException, match="unexpected inference output"):
        client.infer("simple", inputs, outputs=wrong)
    for name, version in (("nobody", ""), ("simple", "7")):
        with pytest.raises(triton.InferenceServerException, match="unknown model") as caught:
            client.infer(name, inputs, model_version=version)
        assert caught.value.status() == "404"


def test_what_this_server_does_not_have_is_501(client):
    with pytest.raises(triton.InferenceServerException) as caught:
        client.get_system_shared_memory_status()
    assert caught.value.status() == "501"


@pytest.mark.anyio
async def test_the_aio_client_infers_and_reads(url: str):
    import tritonclient.http.aio as triton_aio

    inputs, left, right = _simple_inputs(binary=True)
    async with triton_aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        result = await client.infer("simple", inputs, response_compression_algorithm="gzip")
        assert (result.as_numpy("OUTPUT0") == left + right).all()
        assert (await client.get_model_metadata("simple"))["name"] == "simple"
        assert await client.get_model_repository_index()


def test_errors_are_always_an_object_with_error(url: str):
    for method, path, status in (
        ("GET", "/v2/nowhere", 404),
        ("GET", "/v2/models/simple/infer", 404),
        ("DELETE", "/v2/models/simple", 405),
        ("POST", "/v2/models/simple/infer", 400),
        ("POST", "/v2/repository/index", 200),
        ("GET", "/v2/models/a%2Fb", 404),
        ("GET", "/v2/models/nobody/ready", 400),
    ):
        answer = httpx2.request(method, f"http://{url}{path}")
        assert answer.status_code == status, (method, path, answer.text)
        if status >= 400:
            assert list(answer.json()) == ["error"]


def test_a_raw_binary_request_is_one_text(url: str):
    answer = httpx2.post(
        f"http://{url}/v2/models/sentiment/infer",
        content=b"bad bad day",
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert answer.status_code == 200
    size = int(answer.headers["inference-header-content-length"])
    document = json.loads(answer.content[:size])
    sizes = [out["parameters"]["binary_data_size"] for out in document["outputs"]]
    start = size + sizes[0]
    (length,) = struct.unpack_from("<I", answer.content, start)
    assert answer.content[start + 4 : start + 4 + length] == b"negative"


def test_a_remote_version_answers_as_the_server_it_names(url: str, tmp_path: Path):
    folder = build_simple_version(tmp_path)
    document = json.loads((folder / "manifest.json").read_text())
    document |= {"name": "near", "engine": "remote", "files": []}
    document["parameters"] = {"url": f"http://{url}", "model": "simple"}
    manifest = Manifest.model_validate(document)
    model = load_model(folder, manifest, LoadOptions())
    prove(model)
    document["golden_cases"][0]["outputs"]["OUTPUT1"] = [[9] * 16]
    with pytest.raises(ManifestError, match="golden case 0"):
        prove(load_model(folder, Manifest.model_validate(document), LoadOptions()))
