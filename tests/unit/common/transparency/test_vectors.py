"""Published vectors: RFC 6962 proofs, RFC 8785 canonical JSON, C2SP notes and tile paths."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from libs.common.transparency import note, tiles, tree

VECTORS = Path(__file__).resolve().parents[5] / "shared" / "data" / "vectors"
pytestmark = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="the published vectors (../shared/data/vectors) are not here"
)


def _cases(kind: str) -> list[Path]:
    return sorted((VECTORS / "merkle-rfc6962" / "testdata" / kind).rglob("*.json"))


def _unb64(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def test_all_196_inclusion_and_consistency_cases_are_judged_right():
    judged = 0
    for kind in ("inclusion", "consistency"):
        for path in _cases(kind):
            case = json.loads(path.read_text())
            proof = [_unb64(item) for item in case["proof"] or ()]
            try:
                if kind == "inclusion":
                    leaf, root = _unb64(case["leafHash"]), _unb64(case["root"])
                    tree.verify_inclusion(case["leafIdx"], case["treeSize"], leaf, proof, root)
                else:
                    roots = _unb64(case["root1"]), _unb64(case["root2"])
                    tree.verify_consistency(case["size1"], case["size2"], *roots, proof)
                is_refused = False
            except tree.VerificationError:
                is_refused = True
            assert is_refused == case["wantErr"], f"{path.name}: {case['desc']}"
            judged += 1
    assert judged == 196


def test_roots_of_sizes_0_to_8_match():
    data = json.loads((VECTORS / "merkle-rfc6962" / "constants.json").read_text())
    hashes = [tree.leaf_hash(bytes.fromhex(item)) for item in data["leaf_inputs_hex"]]
    for size, root in enumerate(data["root_hashes_by_size_hex"]):
        edge = tiles.Edge()
        edge.append(hashes[:size])
        assert tree.root_of(hashes[:size]).hex() == edge.root().hex() == root


LEAVES = [tree.leaf_hash(bytes([i])) for i in range(130)]


def _hash(start: int, end: int) -> str:
    return tree.root_of(LEAVES[start:end]).hex()


def _is_subtree(start: int, end: int) -> bool:
    return start == end or start % (1 << (end - start - 1).bit_length()) == 0


def _lines(kind: str):
    subtrees = [(s, e) for e in range(131) for s in range(e + 1) if _is_subtree(s, e)]
    if kind == "subtree_hash":
        for start, end in subtrees:
            nodes = tree.range_hash(
                (start, end), lambda h, i: bytes.fromhex(_hash(i << h, i + 1 << h))
            )
            yield f"[{start}, {end}) {nodes.hex()}\n"
    elif kind == "subtree_inclusion":
        for start, end in subtrees:
            for index in range(start, end):
                ranges = tree.inclusion_ranges(index - start, end - start)
                path = "".join(f" {_hash(start + a, start + b)}" for a, b in ranges)
                yield f"{index} [{start}, {end}){path}\n"
    else:
        for size in range(131):
            for start, end in subtrees:
                if end <= size:
                    ranges = (
                        tree.subtree_consistency_ranges(start, end, size) if start < end else []
                    )
                    path = "".join(f" {_hash(a, b)}" for a, b in ranges)
                    yield f"[{start}, {end}) {size}{path}\n"


@pytest.mark.parametrize("kind", ["subtree_hash", "subtree_inclusion", "subtree_consistency"])
def test_accumulated_digest_is_reproduced(kind):
    data = json.loads((VECTORS / "merkle-rfc6962" / "constants.json").read_text())
    digest = hashlib.sha256()
    for line in _lines(kind):
        digest.update(line.encode())
    assert digest.hexdigest() == data["accumulated_vectors"][kind]["sha256"]


@pytest.mark.parametrize("name", ["arrays", "french", "structures", "unicode", "values", "weird"])
def test_canonical_json_file_matches(name):
    folder = VECTORS / "jcs-rfc8785" / "testdata"
    document = json.loads((folder / "input" / f"{name}.json").read_text())
    assert rfc8785.dumps(document) == (folder / "output" / f"{name}.json").read_bytes()


def _verify(public: bytes, signature: bytes, text: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except InvalidSignature:
        raise tree.VerificationError("signature") from None


@pytest.mark.parametrize("name", ["signed_note", "sumdb_checkpoint"])
def test_note_verifies_and_a_changed_one_does_not(name):
    case = json.loads((VECTORS / "c2sp-notes" / "vectors.json").read_text())[name]
    key = note.VerifierKey.parse(case["vkey"])
    assert str(key) == case["vkey"]
    text, signers = note.open_note(case["note"], [key], _verify)
    assert signers == [key.name]
    with pytest.raises(tree.VerificationError):
        note.open_note(case["note"].replace("a", "b", 1), [key], _verify)
    if name == "sumdb_checkpoint":
        assert note.Checkpoint.parse(text).text() == text


def test_tile_paths_and_the_layout_of_70000_leaves_match():
    case = json.loads((VECTORS / "c2sp-notes" / "vectors.json").read_text())
    for number, path in case["tile_paths"].items():
        assert tiles.tile_path(int(number)) == path
        assert tiles.parse_tile_path(path) == (int(number), 256)
    layout = case["partial_tiles_for_70000"]
    edge = dict(tiles.edge_coordinates(70_000))
    assert edge[0] == layout["level0_full"]
    assert tiles.tile_width(0, edge[0], 70_000) == layout["level0_partial"]
    assert edge[1] == layout["level1_full"]
    assert tiles.tile_width(1, edge[1], 70_000) == layout["level1_partial"]
    assert tiles.tile_width(2, edge[2], 70_000) == layout["level2_partial"]
