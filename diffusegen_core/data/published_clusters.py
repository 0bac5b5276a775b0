"""The authors' published clusters, `clusters_K.pkl`: a pickled dictionary of cluster numbers and image paths.

Unpickling executes what a file asks for. Here it is done by the restricted Unpickler of Python's
documentation: its `find_class` knows only what NumPy pickles arrays and scalars with, and gives stand-ins for
these that do nothing but keep their arguments. The opcodes are checked first: those that plain data do not
need are refused, and so are files that are dangerously large or deep to build.
"""

import io
import pickle
import pickletools
import re
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.plainfiles import plain_file
from diffusegen_core.data.rasters import EXTENSIONS

# The published files have 110 kB and 500 opcodes. A tuple as deep as 20,000 can still be hashed.
MAX_BYTES, MAX_STEPS = 8 << 20, 20_000

NAMES = {(f"{package}.multiarray", name) for package in ("numpy.core", "numpy._core")
         for name in ("_reconstruct", "scalar")} | {("numpy", "ndarray"), ("numpy", "dtype")}
DTYPE = re.compile(r"U[1-9][0-9]{0,4}|[iu][1248]")  # text or integers; an object would be a pickle within
OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET",
    "LONG_BINGET", "BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINUNICODE", "BINUNICODE",
    "SHORT_BINBYTES", "BINBYTES", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
# What the Unpickler, or the reading of its result, raises for opcodes that are cut off or make no sense.
UNSOUND = (pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, EOFError, MemoryError,
           OverflowError, RecursionError)


class _RefusedError(Exception):
    """The file asks for something that the authors' files do not."""


class _StandIn:
    """Built in place of a NumPy function or object: keeps what it was called with, and its state."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple | None = None):
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> "_StandIn":
        return _StandIn(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _StandIn:
        if (module, name) not in NAMES:
            raise _RefusedError(f"it names {module}.{name}"[:80])
        return _StandIn(name)


def read(path: Path) -> dict[int, list[str]]:
    """The image names (stems) of each cluster, 0 to K - 1, each name once and no cluster empty.

    Raises UserError, which names the file, for anything else.
    """
    try:
        with plain_file(path).open("rb") as f:
            content = f.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        _look_through(content)
        return _clusters(_Restricted(io.BytesIO(content)).load())
    except _RefusedError as error:
        reason = str(error)
    except UNSOUND:
        reason = "it is damaged, or not a pickle"
    raise UserError(f"{path} is refused: {printable(reason)}. Clusters are a pickled dictionary of their "
                    "numbers, from 0, and of lists of image names, as the authors publish it; nothing in a "
                    "pickle is ever executed.")


def _look_through(content: bytes) -> None:
    """Refuse what must not be built. pickletools parses the opcodes and builds nothing."""
    if len(content) > MAX_BYTES:
        raise _RefusedError(f"it has more than {MAX_BYTES} bytes")
    for steps, (opcode, value, _) in enumerate(pickletools.genops(content)):
        if steps > MAX_STEPS:
            raise _RefusedError(f"it has more than {MAX_STEPS} opcodes")
        if opcode.name not in OPCODES:
            raise _RefusedError(f"it has the opcode {opcode.name}")
        # Unpickling would allocate room for that many objects.
        if opcode.name == "LONG_BINPUT" and int(value or 0) > MAX_STEPS:
            raise _RefusedError(f"it numbers an object {value}")


def _clusters(content: Any) -> dict[int, list[str]]:
    if not isinstance(content, dict):
        raise _RefusedError("it holds no dictionary of the numbers 0, 1, 2 ...")
    numbered = {_number(key): value for key, value in content.items()}
    if not numbered or sorted(numbered) != list(range(len(content))):
        raise _RefusedError("it holds no dictionary of the numbers 0, 1, 2 ...")
    clusters: dict[int, list[str]] = {}
    place: dict[str, int] = {}
    for number, value in sorted(numbered.items()):
        paths = _decoded(value)
        if not isinstance(paths, list | tuple):
            raise _RefusedError(f"cluster {number} is not a list of names")
        if not paths:
            raise _RefusedError(f"cluster {number} is empty")
        clusters[number] = []
        for path in map(_decoded, paths):
            if not isinstance(path, str):
                raise _RefusedError(f"cluster {number} holds something that is not a name")
            name = _stem(path)
            if name in place:
                raise _RefusedError(f"{name} is in cluster {place[name]} and again in cluster {number}")
            place[name] = number
            clusters[number].append(name)
    return clusters


def _number(key: Any) -> int:
    number = _decoded(key)
    if type(number) is not int:
        raise _RefusedError("a key of its dictionary is no cluster number")
    return number


def _stem(path: str) -> str:
    last = PurePosixPath(path)
    return last.stem if last.suffix.lower() in EXTENSIONS else last.name


def _decoded(value: Any) -> Any:
    """The list of a stand-in for an array, or the value of one for a scalar; anything else as it is."""
    if not isinstance(value, _StandIn):
        return value
    match value.name, value.arguments, value.state:
        case ("_reconstruct", (_StandIn(name="ndarray"), (0,), b"b"),
              (1, (int(count),), _StandIn() as dtype, bool(), bytes(content))):
            values = _values(dtype, content)
            if len(values) != count:
                raise _RefusedError(f"an array lacks the {count} values that it claims")
            return values
        case "scalar", (_StandIn() as dtype, bytes(content)), None:
            scalar, = _values(dtype, content)
            return scalar
    raise _RefusedError("it asks for an object that is no array of text or integers")


def _values(dtype: _StandIn, content: bytes) -> list[str] | list[int]:
    match dtype.name, dtype.arguments, dtype.state:
        case ("dtype", (str(code), bool(), bool()),
              None | (3, "<" | ">" | "|", None, None, None, int(), int(), int())) if DTYPE.fullmatch(code):
            order = dtype.state[1] if dtype.state else "="
        case _:
            raise _RefusedError("it asks for an object that is no array of text or integers")
    if code[0] != "U":
        return np.frombuffer(content, np.dtype(order + code)).tolist() if content else []
    # Not by NumPy, which makes strings even of bytes that are not text.
    text, size = content.decode("utf-32-be" if order == ">" else "utf-32-le"), int(code[1:])
    if len(text) % size:
        raise _RefusedError("an array is cut off")
    return [text[at:at + size].rstrip("\0") for at in range(0, len(text), size)]
