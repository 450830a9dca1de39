"""
A model's file: SB3's zip archive, which SB3's own tools open, with all that is in it as plain data beside the pickles.

=====================  ==========================================================================================
``sb3_ddpg_ext.json``  the model's fields as plain data, and the index of its weights: what is read here
``...sha256``          the checksum of the JSON, which has those of the other members: zip's own do not see what
                       somebody has changed and packed again
``sb3_ddpg_ext.bin``   the larger arrays of the fields
``policy.pth``, ...    the weights, as PyTorch writes them. Their bytes are read here; their pickles are for SB3
``data``, ...          the fields as SB3 writes them. Only what cannot be written as plain data is read from here, and
                       only for a caller who trusts the file
=====================  ==========================================================================================
"""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import stable_baselines3
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import data_to_json, json_to_data, open_path, recursive_getattr
from stable_baselines3.common.utils import get_system_info

from sb3_ddpg_ext.errors import SavedFileError, UntrustedFileError
from sb3_ddpg_ext.safe_files.archive import SafeArchive, check_checksum, reason
from sb3_ddpg_ext.safe_files.checks import check_field
from sb3_ddpg_ext.safe_files.objects import Decoder, Encoder
from sb3_ddpg_ext.safe_files.plain import NotPlainError, integer
from sb3_ddpg_ext.safe_files.tensors import read_tensors, write_tensors

FORMAT = 1
JSON = "sb3_ddpg_ext.json"
DIGEST = "sb3_ddpg_ext.sha256"
_ARRAYS = "sb3_ddpg_ext.bin"
VARIABLES = "pytorch_variables"
File = str | Path | io.BufferedIOBase
Parameters = dict[str, Any]


def _is_derived(name: str) -> bool:
    """:return: Whether a model computes a field anew when it is set up"""
    return name == "lr_schedule" or "batch_norm_stats" in name


def name_of(path: File) -> str:
    """:return: What a file is called in errors"""
    return str(path) if not hasattr(path, "read") else "the file"


@contextlib.contextmanager
def opened(path: File, mode: str, suffix: str = "zip") -> Iterator[BinaryIO]:
    """
    Open a model's file as SB3 does.

    :param path: A path, or a file that is open already
    :param mode: ``"r"`` or ``"w"``
    :param suffix: Added to a path that has none, if need be
    :return: The file; one that was opened here is closed in the end
    """
    file: Any = open_path(path, mode, suffix=suffix)
    try:
        yield file
    finally:
        if isinstance(path, (str, Path)):
            file.close()


def write_model(
    model: BaseAlgorithm, path: File, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
) -> None:
    """
    Save a model. See :meth:`stable_baselines3.common.base_class.BaseAlgorithm.save`.

    :param model: The model
    :param path: The file
    :param exclude: Names of fields to leave out, besides those that always are
    :param include: Names of fields to save that otherwise are left out
    """
    excluded = (set(exclude or ()) | set(model._excluded_save_params())) - set(include or ())
    state_dicts, variables = model._get_torch_save_params()
    excluded |= {name.split(".")[0] for name in [*state_dicts, *variables]}
    fields = {name: value for name, value in vars(model).items() if name not in excluded}

    blob = bytearray()
    content: dict[str, Any] = {"format": FORMAT, "fields": {}, "pickled": {}, "weights": {}, "sha256": {}}
    for name, value in fields.items():
        if _is_derived(name):
            continue
        mark = len(blob)
        try:
            content["fields"][name] = Encoder(blob)(value, name)
        except NotPlainError as error:
            del blob[mark:]
            content["pickled"][name] = str(error)
    torch_files = {**model.get_parameters(), VARIABLES: {name: recursive_getattr(model, name) for name in variables}}

    with opened(path, "w") as file, zipfile.ZipFile(file, "w") as archive:

        def add(name: str, member: bytes, compression: int = zipfile.ZIP_STORED) -> None:
            archive.writestr(name, member, compression)
            content["sha256"][name] = hashlib.sha256(member).hexdigest()

        # SB3 does not compress; with these two compressed, a file is not larger than SB3's
        add("data", data_to_json(fields).encode(), zipfile.ZIP_DEFLATED)
        for name, state in torch_files.items():
            try:
                written, content["weights"][name] = write_tensors(state, name)
            except NotPlainError as error:
                written, content["pickled"][f"{name}.pth"] = _torch_saved(state), str(error)
            add(f"{name}.pth", written)
        add(_ARRAYS, bytes(blob), zipfile.ZIP_DEFLATED)
        document = json.dumps(content, allow_nan=False).encode()
        archive.writestr(JSON, document, zipfile.ZIP_DEFLATED)
        archive.writestr(DIGEST, hashlib.sha256(document).hexdigest())
        archive.writestr("_stable_baselines3_version", stable_baselines3.__version__)
        archive.writestr("system_info.txt", get_system_info(print_info=False)[1])


def _torch_saved(state: Any) -> bytes:
    file = io.BytesIO()
    th.save(state, file)
    return file.getvalue()


class ModelFile:
    """
    A model's file, open for reading. Nothing of it is unpickled unless it is trusted.

    :param file: The file
    :param what: What it is called in errors
    :param trusted: Whether code from the file may be run
    :raises SavedFileError: If it is damaged
    """

    def __init__(self, file: BinaryIO, what: str, trusted: bool) -> None:
        self.what = what
        self.trusted = trusted
        self._archive = SafeArchive(file, what)
        self.is_plain = JSON in self._archive
        self._content = self._read_content() if self.is_plain else {}

    def require_trust(self) -> None:
        """
        :raises UntrustedFileError: If the file is SB3's, or of an earlier version, and is not trusted
        :raises SavedFileError: If it is no model's
        """
        if not self.is_plain and "data" not in self._archive:
            raise SavedFileError(
                f"{self.what} holds no model; a file of policy.save is for the policy's own load or for set_parameters"
            )
        if not self.is_plain and not self.trusted:
            raise UntrustedFileError(
                f"{self.what} was saved by Stable-Baselines3 or by an early version of this package, so that loading "
                "it runs code from the file; pass trusted=True if you trust whoever made it"
            )

    def _read_content(self) -> dict[str, Any]:
        content = self._archive.read_json(JSON)
        digest = self._archive.read(DIGEST).decode(errors="replace")
        check_checksum(self._archive.read(JSON), digest, f"{self.what}: {JSON}")
        if not isinstance(content, dict) or type(content.get("format")) is not int:
            raise SavedFileError(f"{self.what}: {JSON} is not what this package writes")
        if content["format"] > FORMAT:
            raise SavedFileError(f"{self.what} was saved by a later version of this package; update it")
        for part in ("fields", "pickled", "weights", "sha256"):
            if not isinstance(content.get(part), dict):
                raise SavedFileError(f"{self.what}: {JSON} has no {part}")
        return content

    def _read(self, name: str) -> bytes:
        member = self._archive.read(name)
        check_checksum(member, self._content["sha256"].get(name), f"{self.what}: {name}")
        return member

    def system_info(self) -> str:
        """:return: What SB3 has written about the machine"""
        return self._archive.read("system_info.txt").decode(errors="replace")

    def fields(self, replaced: Mapping[str, Any], cls: type) -> dict[str, Any]:
        """
        Read the fields of the model.

        :param replaced: Fields that are not read, but have these values
        :param cls: The class of the model
        :return: The fields by name
        :raises SavedFileError: If one of them cannot be a model's
        :raises UntrustedFileError: If one of them is pickled, and the file is not trusted
        """
        decode = Decoder(self._read(_ARRAYS))
        fields = {}
        for name, value in self._content["fields"].items():
            if name not in replaced:
                with self._errors(f"the field {name[:100]}"):
                    fields[name] = decode(value)
                    check_field(name, fields[name], cls)
        pickled = {
            n: why for n, why in self._content["pickled"].items() if n not in replaced and not n.endswith(".pth")
        }
        if pickled and not self.trusted:
            name, why = next(iter(pickled.items()))
            raise UntrustedFileError(
                f"{self.what}: {str(why)[:300]}; so {name[:100]} is a pickle, and loading it runs code from the "
                f"file. Pass custom_objects={{{name[:100]!r}: ...}} with a value for it, or trusted=True if you trust "
                "whoever made it"
            )
        if pickled:
            data = json.loads(self._read("data"))
            fields |= json_to_data(json.dumps({name: data[name] for name in pickled if name in data}))
        return fields | dict(replaced)

    def n_tensors(self) -> int:
        """:return: How many tensors the weights have"""
        with self._errors(JSON):
            return sum(integer(index["n_tensors"], 0, 2**20) for index in self._content["weights"].values())

    def parameters(self) -> Parameters:
        """
        Read the weights.

        :return: As :meth:`stable_baselines3.common.base_class.BaseAlgorithm.get_parameters`, with ``pytorch_variables``
        :raises SavedFileError: If they are damaged, or not finite
        """
        parameters = {}
        for name, index in self._content["weights"].items():
            content = io.BytesIO(self._read(f"{name}.pth"))
            parameters[name] = read_tensors(content, index, f"{self.what}: {name}.pth")
        for member, why in self._content["pickled"].items():
            if member.endswith(".pth"):
                if not self.trusted:
                    raise UntrustedFileError(f"{self.what}: {str(why)[:300]}; pass trusted=True if you trust it")
                content = io.BytesIO(self._read(member))
                parameters[member.removesuffix(".pth")] = th.load(content, map_location="cpu", weights_only=True)
        return parameters

    @contextlib.contextmanager
    def _errors(self, where: str) -> Iterator[None]:
        try:
            yield
        except SavedFileError:
            raise
        except Exception as error:  # what constructors raise for what they cannot take
            raise SavedFileError(f"{self.what}: {where}: {reason(error)}") from error
