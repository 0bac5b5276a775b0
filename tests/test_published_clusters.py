"""The authors' published clusters: read as they are, and nothing in a pickle is executed."""

import os
import pickle
import struct
import time
import tracemalloc
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.data import published_clusters


class Bomb:
    """Creates a file where something executes its pickle."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.target}",)


class Evaluated:
    def __reduce__(self) -> tuple:
        return eval, ("1 + 1",)


def authors(groups: list[list[str]], dtype: str = "U79", protocol: int = 4) -> bytes:
    """A file as the authors' notebook writes it, with the NumPy of its time."""
    content = pickle.dumps({k: np.array(names, dtype) for k, names in enumerate(groups)}, protocol)
    if protocol >= 4:  # a frame tells its length, which the name changes; none is needed
        content = content[:2] + content[11:]
    return content.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")


def paths(*names: str) -> list[str]:
    return [f"./guided_diffusion/segmented-images/masked-images/{name}.jpg" for name in names]


GROUPS = [paths("a", "b"), paths("c"), paths("d.1", "e", "f")]
WANTED = {0: ["a", "b"], 1: ["c"], 2: ["d.1", "e", "f"]}


def read(tmp_path: Path, content: bytes) -> dict[int, list[str]]:
    path = tmp_path / "clusters_3.pkl"
    path.write_bytes(content)
    return published_clusters.read(path)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'clusters_3.pkl'} is refused: ")
    assert text == printable(text)
    return text


@pytest.mark.parametrize("content", [
    authors(GROUPS), authors(GROUPS, protocol=3), authors(GROUPS, dtype=">U60"),
    *(pickle.dumps(dict(enumerate(GROUPS)), protocol) for protocol in (2, 3, 4, 5)),
    pickle.dumps({k: tuple(names) for k, names in enumerate(GROUPS)}),
    pickle.dumps({np.int64(k): [np.str_(name) for name in names] for k, names in enumerate(GROUPS)}, 4),
    pickle.dumps({k: np.array(GROUPS[k]) for k in (2, 0, 1)}, 4),
], ids=["authors", "protocol 3", "big-endian", "lists 2", "lists 3", "lists 4", "lists 5", "tuples",
        "scalars", "order"])
def test_published_clusters_are_read(tmp_path: Path, content: bytes):
    found = read(tmp_path, content)
    assert found == WANTED
    assert [type(name) for names in found.values() for name in names] == 6 * [str]
    assert list(found) == [0, 1, 2]


def array(shape: bytes = b"K\x01\x85", kind: bytes = b"U1", data: bytes = b"B\x04\0\0\0a\0\0\0") -> bytes:
    """The opcodes of an array."""
    def text(value: bytes) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value

    multiarray = text(b"numpy.core.multiarray")
    return (multiarray + text(b"_reconstruct") + b"\x93" + text(b"numpy") + text(b"ndarray")
            + b"\x93K\0\x85C\x01b\x87R(K\x01" + shape + text(b"numpy") + text(b"dtype") + b"\x93" + text(kind)
            + b"\x89\x88\x87R\x89" + data + b"tb")


def dictionary(value: bytes, key: bytes = b"K\0") -> bytes:
    return b"\x80\x04}" + key + value + b"s."


def test_the_array_of_the_next_tests_is_one(tmp_path: Path):
    assert read(tmp_path, dictionary(array())) == {0: ["a"]}


@pytest.mark.parametrize(("content", "says"), [
    (pickle.dumps({0: Evaluated()}), "it names builtins.eval"),
    (pickle.dumps({0: Evaluated()}, 0), "it has the opcode"),
    (pickle.dumps({0: np.array(["a"], object)}, 4), "no array of text or integers"),
    (dictionary(array(kind=b"O")), "no array of text or integers"),
    (dictionary(array(kind=b"O8")), "no array of text or integers"),
    (dictionary(array(kind=b"f8")), "no array of text or integers"),
    (dictionary(array(kind=b"V4")), "no array of text or integers"),
    (dictionary(array(kind=b"U0")), "no array of text or integers"),
    (dictionary(array(kind=b"U999999999")), "no array of text or integers"),
    (dictionary(array(shape=b"J\xff\xff\xff\x7f\x85")), "lacks the 2147483647 values that it claims"),
    (dictionary(array(shape=b"\x8a\x09\0\0\0\0\0\0\0\0\x01\x85")), "values that it claims"),
    (dictionary(array(shape=b"K\x01K\x01\x86")), "no array of text or integers"),
    (dictionary(array(data=b"B\x04\0\0\0\xff\xff\xff\xff")), "damaged"),
    (dictionary(array(kind=b"i4")), "holds something that is not a name"),
    (pickle.dumps({0: [1, 2]}), "holds something that is not a name"),
    (pickle.dumps({0: ["a", ["b"]]}), "holds something that is not a name"),
    (pickle.dumps({0: "abc"}), "cluster 0 is not a list"),
    (pickle.dumps({0: ["a"], 1: []}), "cluster 1 is empty"),
    (authors([paths("a"), []]), "cluster 1 is empty"),
    (pickle.dumps({0: ["a"], 1: ["b", "x/a.jpg"]}), "a is in cluster 0 and again in cluster 1"),
    (pickle.dumps({0: ["a"], 2: ["b"]}), "no dictionary of the numbers"),
    (pickle.dumps({"0": ["a"]}), "no cluster number"),
    (pickle.dumps({True: ["a"]}), "no cluster number"),
    (pickle.dumps({}), "no dictionary of the numbers"),
    (pickle.dumps([["a"]]), "no dictionary of the numbers"),
    (pickle.dumps({0: [1.5]}), "opcode BINFLOAT"),
    (pickle.dumps({0: {"a"}}), "opcode EMPTY_SET"),
    (pickle.dumps({0: date(2024, 1, 1)}), "it names datetime.date"),
    (pickle.dumps({0: np.array(["a"])}, 5), "opcode BYTEARRAY8"),  # NumPy's own short way
    (dictionary(b")" + 19_000 * b"\x85"), "cluster 0 holds something that is not a name"),
    (dictionary(b"]", key=b")" + 19_000 * b"\x85"), "no cluster number"),
    (dictionary(b"]", key=b")" + 90_000 * b"\x85"), "opcodes"),
    (b"\x80\x04)" + 19_000 * b"\x85" + b"\x8c\x01a\x93.", "damaged"),
    (b"\x80\x04" + 5000 * b"(" + 5000 * b"t" + b".", "no dictionary of the numbers"),
    (b"\x80\x04" + 200_000 * b")" + b".", "opcodes"),
    (b"\x80\x04}q\0K\0h\0s.", "cluster 0 is not a list"),  # a dictionary in itself
    (dictionary(b"]q\0h\0a"), "holds something that is not a name"),  # a list in itself
    (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
    (b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.", "damaged"),
    (b"\x80\x04\x8b\xff\xff\xff\x7f.", "damaged"),
    (b"\x80\x04Nr\xff\xff\xff\xff.", "it numbers an object 4294967295"),
    (b"\x80\x04cnumpy\ndtype\n}\x8c\x08__call__Nsb.", "no dictionary of the numbers"),
    (b"\x80\x04cnumpy\ndtype\nN}\x8c\x08__call__Ns\x86b.", "no dictionary of the numbers"),
    (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "it names numpy.dtype.__init__"),
    (b"\x80\x04}}b.", "damaged"),
    (b"\x80\x04}K\0]K\0].", "no dictionary of the numbers"),
    (b"cos\nsystem\n.", "it names os.system"),
    (b"(S'touch x'\nios\nsystem\n.", "opcode STRING"),
    (b"\x80\x02P1\n.", "opcode PERSID"),
    (b"\x80\x02\x82\x01.", "opcode EXT1"),
    (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    (b"I" + 10_000 * b"9" + b"\n.", "damaged"),
    (b"", "damaged"),
    (b".", "damaged"), (b"\x80\x04R.", "damaged"), (b"\x80\x04a.", "damaged"),
    (b"\x80\x04t.", "damaged"), (b"\x80\x04h\x05.", "damaged"), (b"PK\x03\x04" + bytes(30), "damaged"),
    (bytes(published_clusters.MAX_BYTES) + b".", "bytes"),
], ids=lambda value: value if isinstance(value, str) else "file")
def test_what_is_no_cluster_file_is_refused(tmp_path: Path, content: bytes, says: str):
    start = time.monotonic()
    assert says in refusal(tmp_path, content)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_in_place_of_clusters_is_not_executed(tmp_path: Path, protocol: int):
    target = tmp_path / "executed"
    for bomb in ({0: Bomb(target)}, Bomb(target), {0: np.array([Bomb(target)], object)}):
        content = pickle.dumps(bomb, protocol)
        pickle.loads(content)
        target.unlink()  # it does execute where it is unpickled
        refusal(tmp_path, content)
        assert not target.exists()


def test_one_array_asked_for_again_and_again_fills_no_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(published_clusters, "MAX_BYTES", 10_000)
    many = b"".join(b"K" + bytes([k]) + array(kind=b"U500", data=b"h\x07" if k else
                                              b"B" + struct.pack("<I", 2000) + 2000 * b"\0" + b"q\x07")
                    for k in range(9))
    assert " is in cluster 0 and again in cluster 1" in refusal(tmp_path, b"\x80\x04}(" + many + b"u.")


def test_a_large_scalar_asked_for_again_and_again_fills_no_memory(tmp_path: Path):
    """2000 strings of 65,536 characters would be 131 MB; the second is refused, for it is the first again."""
    kind, scalar = b"cnumpy\ndtype\n\x8c\x06U65536\x89\x88\x87Rq\0", b"cnumpy.core.multiarray\nscalar\n"
    first = scalar + kind + b"B" + struct.pack("<I", 4 << 16) + b"a\0\0\0" * (1 << 16) + b"q\x01\x86R"
    more = 2000 * (scalar + b"h\0h\x01\x86R")
    tracemalloc.start()
    try:
        assert "again in cluster 0" in refusal(tmp_path, dictionary(b"](" + first + more + b"e"))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_clusters_are_read_or_refused(tmp_path: Path, draw: st.DataObject):
    content = bytearray(draw.draw(st.sampled_from([
        authors(GROUPS), pickle.dumps(dict(enumerate(GROUPS))), dictionary(array()),
        pickle.dumps(GROUPS, 0)])))
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(content) - 1))
        new = draw.draw(st.binary(min_size=0, max_size=3))
        content[place:place + draw.draw(st.integers(0, 3))] = new
    try:
        found = read(tmp_path, bytes(content))
    except UserError:
        refusal(tmp_path, bytes(content))
    else:
        assert list(found) == list(range(len(found)))
        assert all(names and all(type(name) is str for name in names) for names in found.values())
