"""A pickle read as data: containers, numbers, texts and arrays; nothing is imported or called.

`pickle` builds whatever a file names, by importing it and calling it. Here a name stays a name: the
few constructors that stand for plain data are known by a table, every other object becomes a
`Skipped`, which keeps what was put into it and does nothing. A file can so make nothing but lists,
dicts and bytes, each no larger than the file itself. Deep nesting costs no recursion.

Opcodes are split by `pickletools.genops` of the standard library, which executes none of them.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge.errors import first_line

__all__ = ["Global", "PickleError", "PickledArray", "Skipped", "UnsafePickleError", "read_pickle"]

_MOST_STEPS = 3_000_000
"""A training checkpoint with an optimiser and its log takes a hundred thousand."""

Builder = Callable[..., Any]
_Scalar = str | bytes | int | float | None


class PickleError(Exception):
    """Damaged, truncated, or no pickle at all."""


class UnsafePickleError(Exception):
    """It asks for a function that no checkpoint needs; the text is that function's name."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function, which is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Skipped(dict[Any, Any]):
    """An object that was not made: what it is called, its items and its state."""

    def __init__(self, name: str, items: Mapping[Any, Any] | None = None) -> None:
        super().__init__(items or {})
        self.name = name
        self.state: Any = None


@dataclass
class _DType:
    code: str
    order: str = "="


@dataclass
class PickledArray:
    """A numpy array or scalar as it was pickled; `value` makes it."""

    dtype: Any = None
    shape: Any = None
    data: Any = None
    fortran: bool = False

    def value(self) -> NDArray[Any] | list[Any] | None:
        """The array; of objects their list; None where it is of another kind or inconsistent."""
        if isinstance(self.data, list):
            return self.data
        if not isinstance(self.dtype, _DType) or not isinstance(self.data, bytes | bytearray):
            return None
        if self.dtype.code[:1] not in "biufUSa?" or not isinstance(self.shape, tuple):
            return None
        if not all(type(size) is int and size >= 0 for size in self.shape):
            return None
        try:
            plain = np.dtype(self.dtype.code)
            dtype = plain.newbyteorder(">") if self.dtype.order == ">" else plain
        except (TypeError, ValueError):
            return None
        if math.prod(self.shape) * dtype.itemsize != len(self.data) or not dtype.itemsize:
            return None
        flat = np.frombuffer(self.data, dtype)
        return flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)


# --- what stands for plain data -------------------------------------------------------------------


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise PickleError(f"a text in the encoding {encoding!r}")
    return text.encode(encoding)


def _dict(items: Any = ()) -> dict[Any, Any]:
    pairs = items.items() if isinstance(items, Mapping) else items
    return {_key(key): value for key, value in pairs}


def _list(items: Any = ()) -> list[Any]:
    return list(items) if isinstance(items, list | tuple) else []


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(_list(items))


def _scalar(dtype: Any, data: Any = None) -> Any:
    value = PickledArray(dtype, (), data).value()
    return value.item() if isinstance(value, np.ndarray) else None


def _array_of(data: Any, dtype: Any, shape: Any, order: str = "C") -> PickledArray:
    return PickledArray(dtype, shape, data, order == "F")


_NUMPY: dict[str, Builder] = {
    "multiarray._reconstruct": lambda *_: PickledArray(),
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _array_of,
}
_BUILT_IN: dict[str, Builder] = {
    **dict.fromkeys(("list", "set", "frozenset"), _list),
    "tuple": _tuple,
    "dict": _dict,
    # Python 3 writes empty bytes as a call where the protocol has no bytes.
    **dict.fromkeys(("bytes", "bytearray"), lambda data=b"", *_: data),
}
# Names of Python 2 and 3, of numpy before and since 2.0.
_BUILDERS: dict[str, Builder] = {
    "_codecs.encode": _encode,
    "numpy.dtype": lambda code="", *_: _DType(str(code)),
    **{f"numpy.{core}.{name}": make for core in ("core", "_core") for name, make in _NUMPY.items()},
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter"), _dict),
    "collections.defaultdict": lambda *_: {},
    "torch.Size": _tuple,
    **{
        f"{module}.{name}": make
        for module in ("builtins", "__builtin__")
        for name, make in _BUILT_IN.items()
    },
}
# Of the built-in functions a checkpoint of mmengine names getattr; none of these is called here.
_HARMLESS = (
    "getattr",
    "int",
    "float",
    "bool",
    "str",
    "object",
    "complex",
    "slice",
    "range",
    "type",
    "print",
    "BytesIO",
)
_DANGEROUS_MODULES = {
    *("os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "pty", "commands", "importlib"),
    *("runpy", "code", "codeop", "webbrowser", "ctypes", "multiprocessing", "threading", "asyncio"),
    *(
        "pip",
        "pdb",
        "bdb",
        "timeit",
        "tempfile",
        "signal",
        "marshal",
        "pickle",
        "_pickle",
        "urllib",
    ),
    *("http", "ftplib", "smtplib", "builtins", "__builtin__", "io", "_io"),
}


def _call(function: Any, arguments: Any, builders: Mapping[str, Builder]) -> Any:
    """What a constructor would have made, as plain data or as a `Skipped`."""
    arguments = arguments if isinstance(arguments, tuple) else ()
    if not isinstance(function, Global):
        return Skipped(type(function).__name__)
    name = str(function)
    builder = builders.get(name) or _BUILDERS.get(name)
    if builder is not None:
        return builder(*arguments)
    if function.module.partition(".")[0] in _DANGEROUS_MODULES and function.name not in _HARMLESS:
        raise UnsafePickleError(name)
    if function.name == "_reconstructor" and arguments:
        return Skipped(str(arguments[0]))
    return Skipped(name)


def _key(key: Any) -> _Scalar | tuple[_Scalar, ...] | Global:
    """A key that can be hashed without recursion."""
    if key is None or isinstance(key, str | bytes | int | float | Global):
        return key
    if isinstance(key, tuple) and all(
        part is None or isinstance(part, str | bytes | int | float) for part in key
    ):
        return key
    raise PickleError(f"a {type(key).__name__} as a key")


# --- the machine ----------------------------------------------------------------------------------


@dataclass
class _Machine:
    builders: Mapping[str, Builder]
    persistent: Callable[[Any], Any]
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self) -> Any:
        return self.stack.pop()

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def call(self, arguments: Any, function: Any) -> None:
        self.push(_call(function, arguments, self.builders))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update((_key(key), value) for key, value in zip(*[iter(items)] * 2, strict=True))

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, PickledArray) and isinstance(state, tuple) and len(state) == 5:
            _, target.shape, target.dtype, fortran, target.data = state
            target.fortran = bool(fortran)
        elif isinstance(target, _DType) and isinstance(state, tuple) and len(state) > 1:
            target.order = state[1] if state[1] in ("<", ">", "|") else "="
        elif isinstance(target, Skipped):
            target.state = state

    def pop_or_mark(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def dict_since_mark(self) -> None:
        items = self.since_mark()
        self.push({})
        self.set_items(items)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(Global(str(module), str(name)))

    def object_since_mark(self) -> None:
        function, *arguments = self.since_mark()
        self.call(tuple(arguments), function)

    def call_with_keywords(self) -> None:
        self.pop()  # the keywords: what takes any becomes no plain data
        self.call(self.pop(), self.pop())


def _named(text: str) -> Global:
    module, _, name = text.partition(" ")
    return Global(module, name)


_PUSHED = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(_PUSHED, lambda m, value: m.push(value)),
    **dict.fromkeys(("PROTO", "FRAME"), lambda _, __: None),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.pop_or_mark(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda m, _: m.push([])),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda m, _: m.push(m.since_mark())),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.dict_since_mark(),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: m.extend(m.since_mark())),
    "SETITEM": lambda m, _: m.set_item(),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    **dict.fromkeys(
        ("PUT", "BINPUT", "LONG_BINPUT"), lambda m, place: m.memo.update({place: m.stack[-1]})
    ),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.push(m.memo[place])),
    "GLOBAL": lambda m, text: m.push(_named(text)),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, _: m.call(m.pop(), m.pop())),
    "NEWOBJ_EX": lambda m, _: m.call_with_keywords(),
    "INST": lambda m, text: m.call(tuple(m.since_mark()), _named(text)),
    "OBJ": lambda m, _: m.object_since_mark(),
    "BUILD": lambda m, _: m.build(m.pop()),
    "PERSID": lambda m, text: m.push(m.persistent(text)),
    "BINPERSID": lambda m, _: m.push(m.persistent(m.pop())),
}


def _no_persistent(reference: Any) -> Any:
    raise PickleError(f"a reference to {reference!r}")


def read_pickle(
    stream: BinaryIO,
    builders: Mapping[str, Builder] | None = None,
    persistent: Callable[[Any], Any] = _no_persistent,
) -> Any:
    """Read one pickle from the stream, which then stands behind it.

    Args:
        stream: `read` must not give more than is there without being asked: a file or BytesIO.
        builders: further constructors, ``module.name`` -> function of plain data.
        persistent: what a reference to data outside of the pickle becomes.

    Raises:
        PickleError: it is damaged or truncated.
        UnsafePickleError: it asks for a call that starts programs or touches files.
    """
    machine = _Machine(builders or {}, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name == "STOP":
                return machine.pop()
            _STEPS[opcode.name if count < _MOST_STEPS else "too many steps"](machine, argument)
    except (PickleError, UnsafePickleError):
        raise
    # What a damaged pickle raises depends on the byte that is wrong.
    except Exception as error:
        raise PickleError(first_line(error)) from error
    raise PickleError("no end")
