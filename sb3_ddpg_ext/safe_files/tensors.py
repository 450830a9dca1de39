"""
Weights without pickle, and without a second copy of them.

SB3's tools read ``policy.pth`` and its like, which PyTorch writes: each is a zip archive with a pickle and, beside it,
the bytes of each tensor. The pickle is for SB3. Here, an index in JSON says which tensor is where, and the bytes are
read from where they are.
"""

import io
import math
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch as th

from sb3_ddpg_ext.errors import SavedFileError
from sb3_ddpg_ext.safe_files.archive import SafeArchive, reason
from sb3_ddpg_ext.safe_files.objects import Decoder, Encoder
from sb3_ddpg_ext.safe_files.plain import integer, shape_of

MAX_TENSORS = 20_000
"""In one of PyTorch's files."""
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(th.float16, th.bfloat16, th.float32, th.float64),
        *(th.bool, th.uint8, th.int8, th.int16, th.int32, th.int64),
    )
}


class TensorEncoder(Encoder):
    """:class:`Encoder` that takes tensors out of what it encodes; a shared tensor is taken once."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[th.Tensor] = []
        self._numbers: dict[Any, int] = {}

    def _encode_object(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, th.Tensor) or value.layout != th.strided:
            return super()._encode_object(value, where)
        return {"$": "tensor", "number": self._number(value), "dtype": _name(value.dtype), "shape": list(value.shape)}

    def _number(self, tensor: th.Tensor) -> int:
        memory = tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), str(tensor.device)
        key = memory if tensor.numel() and tensor.data_ptr() else len(self.tensors)
        if key not in self._numbers:
            self._numbers[key] = len(self.tensors)
            # With memory of its own, since PyTorch writes the whole memory of which a tensor is a part
            self.tensors.append(tensor.detach().cpu().contiguous().clone())
        return self._numbers[key]


class TensorDecoder(Decoder):
    """:param tensors: The tensors that :class:`TensorEncoder` took out; those that are used are removed"""

    def __init__(self, tensors: Mapping[int, th.Tensor]) -> None:
        super().__init__()
        self._tensors = tensors

    def _decode_object(self, entry: Mapping[str, Any]) -> Any:
        return self._tensors[entry["number"]] if entry["$"] == "tensor" else super()._decode_object(entry)


def _name(dtype: th.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def write_tensors(content: Any, where: str, pickled: Mapping[str, Any] | None = None) -> tuple[bytes, Any]:
    """
    Write a state dict, or anything else that has tensors and plain data.

    :param content: What to write
    :param where: What it is called in errors
    :param pickled: What the file has for SB3 in place of the parts of these names
    :return: The file, which ``torch.load`` reads, and the index, which :func:`read_tensors` reads
    :raises NotPlainError: If something else is in it
    """
    encoder = TensorEncoder()
    index = {"content": encoder(content, where), "n_tensors": len(encoder.tensors)}
    file = io.BytesIO()
    th.save(_replace(content if pickled is None else {**content, **pickled}, encoder), file)
    # PyTorch numbers tensors in the order in which it meets them, as the encoder does. Better to look than to trust
    archive = SafeArchive(file, where, MAX_TENSORS)
    for number, tensor in enumerate(encoder.tensors):
        if archive.read(f"archive/data/{number}") != bytes(tensor.view(-1).view(th.uint8).numpy().data):
            raise RuntimeError(f"{where}: this version of PyTorch does not write tensors in order; please report it")
    return file.getvalue(), index


def _replace(content: Any, encoder: TensorEncoder) -> Any:
    """:return: The same, with the encoder's copies of the tensors"""
    if isinstance(content, th.Tensor):
        return encoder.tensors[encoder._number(content)]
    if isinstance(content, dict):
        copy = type(content)((key, _replace(value, encoder)) for key, value in content.items())
        if isinstance(content, OrderedDict):
            vars(copy).update(vars(content))  # PyTorch's `_metadata`
        return copy
    if isinstance(content, (list, tuple)):
        return type(content)(_replace(value, encoder) for value in content)
    return content


def read_tensors(file: BinaryIO, index: Any, what: str) -> Any:
    """
    Read what :func:`write_tensors` wrote.

    :param file: The file
    :param index: The index
    :param what: What the file is called in errors
    :return: The content, on the CPU
    :raises SavedFileError: If the file and the index do not belong together, or a number is not finite
    """
    archive = SafeArchive(file, what, MAX_TENSORS)
    if archive.read("archive/byteorder").decode(errors="replace") != sys.byteorder:
        raise SavedFileError(f"{what} was written on a machine with another order of bytes")
    try:
        tensors: dict[int, th.Tensor] = {}
        _read_all(archive, index["content"], integer(index["n_tensors"], 0, MAX_TENSORS), tensors, what)
        return TensorDecoder(tensors)(index["content"])
    except SavedFileError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
        raise SavedFileError(f"{what} does not belong to its index: {reason(error)}") from error


def _read_all(archive: SafeArchive, entry: Any, n_tensors: int, tensors: dict[int, th.Tensor], path: str) -> None:
    if isinstance(entry, list):
        for i, item in enumerate(entry):
            _read_all(archive, item, n_tensors, tensors, f"{path}[{i}]")
    elif isinstance(entry, dict) and entry.get("$") != "tensor":
        for key, item in entry.items():
            _read_all(archive, item, n_tensors, tensors, f"{path}: {key[:200]}" if key != "items" else path)
    elif isinstance(entry, dict):
        number, dtype, shape = (
            integer(entry["number"], 0, n_tensors - 1),
            _DTYPES[entry["dtype"]],
            shape_of(entry["shape"]),
        )
        if number not in tensors:
            tensors[number] = _read_one(archive, number, dtype, shape, path)
        elif tensors[number].dtype != dtype or tuple(tensors[number].shape) != shape:
            raise ValueError(f"tensor {number} has two shapes")


def _read_one(archive: SafeArchive, number: int, dtype: th.dtype, shape: tuple[int, ...], path: str) -> th.Tensor:
    name = f"archive/data/{number}"
    if archive.size_of(name) != math.prod(shape) * dtype.itemsize:
        raise SavedFileError(f"{path} has {archive.size_of(name)} bytes, which are not those of the shape {shape}")
    content = bytearray(archive.read(name))
    tensor = th.frombuffer(content, dtype=dtype).reshape(shape) if content else th.empty(shape, dtype=dtype)
    if not bool(th.isfinite(tensor).all()):
        raise SavedFileError(f"{path} has a number that is not finite, so the model is of no use")
    return tensor


def count(content: Any) -> int:
    """:return: The numbers in all tensors of a state dict"""
    if isinstance(content, th.Tensor):
        return content.numel()
    if isinstance(content, dict):
        return sum(map(count, content.values()))
    return sum(map(count, content)) if isinstance(content, (list, tuple)) else 0
