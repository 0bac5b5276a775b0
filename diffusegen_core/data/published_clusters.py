"""The authors' published clusters, `clusters_K.pkl`: a pickled dictionary of cluster numbers and image paths.

To unpickle is to execute what the file asks for, and even a restricted unpickler builds what it is told to,
however large or deep, before anyone can look at it. Nothing is unpickled here: pickletools only parses the
opcodes, and the few that plain data need are interpreted below. What is not a dict, list, tuple, str or int,
or NumPy's array or scalar of text or integers, is refused.
"""

import pickletools
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.data.layouts import EXTENSIONS

MAX_BYTES, MAX_STEPS = 8 << 20, 100_000  # the published files have 110 kB and 500 opcodes

# What a file may name: the parts of which NumPy pickles an array or a scalar. None is ever called.
NAMES = {f"{package}.multiarray {name}": name
         for package in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")}
NAMES |= {f"numpy {name}": name for name in ("ndarray", "dtype")}
DTYPE = re.compile(r"U[1-9][0-9]{0,4}|[iu][1248]")  # text or integers; an object would be a pickle within
PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES",
         "BINBYTES"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _RefusedError(Exception):
    """The file asks for something that the authors' do not."""


@dataclass(frozen=True)
class _Name:
    """A function or class that the file names."""

    name: str


@dataclass(eq=False)
class _Type:
    """A NumPy dtype; its state brings the byte order."""

    code: str
    order: str = "="


@dataclass(eq=False)
class _Array:
    """A NumPy array; its state brings the values."""

    values: list[str] | list[int] | None = None


def read(path: Path) -> dict[int, list[str]]:
    """The image names (stems) of each cluster, 0 to K - 1, each name once and no cluster empty.

    Raises UserError, which names the file, where it is anything else.
    """
    try:
        with path.open("rb") as f:
            content = f.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        if len(content) > MAX_BYTES:
            raise _RefusedError(f"it has more than {MAX_BYTES} bytes")
        return _clusters(_interpreted(content))
    except _RefusedError as error:
        reason = str(error)
    except (ValueError, IndexError, KeyError, TypeError):  # opcodes that are cut off or make no sense
        reason = "it is damaged, or no pickle"
    raise UserError(f"{path} is refused: {printable(reason)}. Clusters are a pickled dictionary of their "
                    "numbers, from 0, and of lists of image names, as the authors publish it; nothing in a "
                    "pickle is ever executed.")


def _clusters(found: Any) -> dict[int, list[str]]:
    if not isinstance(found, dict) or not found or sorted(found) != list(range(len(found))):
        raise _RefusedError("it holds no dictionary of the numbers 0, 1, 2 ...")
    clusters, place = {}, {}
    for number in sorted(found):
        value = found[number]
        paths = value.values if isinstance(value, _Array) else value
        if not isinstance(paths, list | tuple):
            raise _RefusedError(f"cluster {number} is no list of names")
        if not paths:
            raise _RefusedError(f"cluster {number} is empty")
        clusters[number] = []
        for path in paths:
            if not isinstance(path, str):
                raise _RefusedError(f"cluster {number} holds something that is no name")
            name = _stem(path)
            if name in place:
                raise _RefusedError(f"{name} is in cluster {place[name]} and again in cluster {number}")
            place[name] = number
            clusters[number].append(name)
    return clusters


def _stem(path: str) -> str:
    last = PurePosixPath(path)
    return last.stem if last.suffix.lower() in EXTENSIONS else last.name


def _interpreted(content: bytes) -> Any:
    """What the opcodes describe, of plain types, `_Array`, `_Type` and `_Name`."""
    machine = _Machine()
    for steps, (opcode, value, _) in enumerate(pickletools.genops(content)):
        if steps > MAX_STEPS:
            raise _RefusedError(f"it has more than {MAX_STEPS} opcodes")
        machine.step(opcode.name, value)
    return machine.stack[-1]


class _Machine:
    """The stack and the memo of a pickle, for the opcodes of plain data."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.room = MAX_BYTES  # for the bytes of arrays, one of which may be asked for again and again

    def step(self, name: str, value: Any) -> None:
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "EMPTY_DICT" | "EMPTY_LIST":
                self.stack.append({} if name == "EMPTY_DICT" else [])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._cut(len(self.stack) - int(name[-1]))))
            case "TUPLE":
                self.stack.append(tuple(self._cut(self.marks.pop())))
            case "APPEND" | "APPENDS":
                items = self._cut(len(self.stack) - 1 if name == "APPEND" else self.marks.pop())
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._cut(len(self.stack) - 2 if name == "SETITEM" else self.marks.pop())
                self._set(self._top(dict), items)
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT":
                self.memo[len(self.memo) if name == "MEMOIZE" else value] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[value])
            case _ if name in PLAIN:
                self.stack.append(value)
            case _ if name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            case _:
                self._step_of_objects(name, value)

    def _step_of_objects(self, name: str, value: Any) -> None:
        match name:
            case "GLOBAL":
                self.stack.append(_named(value))
            case "STACK_GLOBAL":
                module, function = self._cut(len(self.stack) - 2)
                self.stack.append(_named(f"{_text(module)} {_text(function)}"))
            case "REDUCE":
                function, arguments = self._cut(len(self.stack) - 2)
                self.stack.append(self._call(function, arguments))
            case "BUILD":
                [state] = self._cut(len(self.stack) - 1)
                self._build(self.stack[-1], state)
            case _:
                raise _RefusedError(f"it has the opcode {name}")

    def _cut(self, start: int) -> list[Any]:
        if start < 0:
            raise IndexError(start)
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise _RefusedError(f"something is put into what is no {kind.__name__}")
        return self.stack[-1]

    def _set(self, target: dict[int, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not int:  # to hash a tuple as deep as the file is long would end the process
                raise _RefusedError("a key of its dictionary is no cluster number")
            if key in target:
                raise _RefusedError(f"cluster {key} is there twice")
            target[key] = value

    def _call(self, function: Any, arguments: Any) -> Any:
        """What NumPy's constructors would return, as far as they are those of text and integers."""
        match function, arguments:
            case _Name("dtype"), (str(code), bool(), bool()) if DTYPE.fullmatch(code):
                return _Type(code)
            case _Name("_reconstruct"), (_Name("ndarray"), (0,), b"b"):
                return _Array()
            case _Name("scalar"), (_Type() as kind, bytes(content)):
                [value] = self._decoded(kind, content)
                return value
        raise _RefusedError("it asks for an object that is no array of text or integers")

    def _build(self, target: Any, state: Any) -> None:
        match target, state:
            case _Type(), (3, "<" | ">" | "|" as order, None, None, None, int(), int(), int()):
                target.order = order
            case _Array(), (1, (int(count),), _Type() as kind, bool(), bytes(content)):
                target.values = self._decoded(kind, content)
                if len(target.values) != count:
                    raise _RefusedError(f"an array says that it has {count} values and has not")
            case _:
                raise _RefusedError("it gives an object a state that is no array of text or integers")

    def _decoded(self, kind: _Type, content: bytes) -> list[Any]:
        self.room -= len(content)
        if self.room < 0:
            raise _RefusedError(f"its arrays have more than {MAX_BYTES} bytes")
        if kind.code[0] != "U":
            return np.frombuffer(content, np.dtype(kind.order + kind.code)).tolist() if content else []
        # Not by NumPy, which makes strings of bytes that are no text.
        text, size = content.decode("utf-32-be" if kind.order == ">" else "utf-32-le"), int(kind.code[1:])
        if len(text) % size:
            raise _RefusedError("an array is cut off")
        return [text[at:at + size].rstrip("\0") for at in range(0, len(text), size)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _RefusedError("a name in it is no text")
    return value


def _named(name: str) -> _Name:
    if name not in NAMES:
        raise _RefusedError(f"it names {name[:80].replace(' ', '.')}")
    return _Name(NAMES[name])
