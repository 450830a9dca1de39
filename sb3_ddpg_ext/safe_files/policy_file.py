"""
Policies without their algorithm: the file that SB3's ``policy.save`` writes, which SB3 opens, with all that is in it as
plain data in ``archive/policy.json`` beside the pickle.
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device

from sb3_ddpg_ext.errors import SavedFileError, UntrustedFileError
from sb3_ddpg_ext.safe_files.archive import MAX_JSON_BYTES, SafeArchive, check_checksum, reason
from sb3_ddpg_ext.safe_files.checks import AllocationLimit, check_network_arguments
from sb3_ddpg_ext.safe_files.model_file import File, name_of, opened
from sb3_ddpg_ext.safe_files.plain import NotPlainError
from sb3_ddpg_ext.safe_files.tensors import MAX_TENSORS, count, read_tensors, write_tensors

Self = TypeVar("Self", bound="SafelySavedPolicy")

_FORMAT = 1
_JSON = "archive/policy.json"  # PyTorch wants all members in one folder
_DIGEST = "archive/policy.sha256"


class SafelySavedPolicy(BasePolicy):
    """SB3's ``BasePolicy``, whose files are read without running code from them."""

    def save(self, path: File) -> None:
        """
        Save the policy without its optimizers, as plain data and so that SB3 can open it, too. One with classes of your
        own in it is saved as SB3 does it.

        :param path: The file
        """
        try:
            content = _written(self)
        except NotPlainError:
            super().save(cast(Any, path))
            return
        if isinstance(path, (str, Path)):
            Path(path).write_bytes(content)
        else:
            path.write(content)

    @classmethod
    def load(cls: type[Self], path: File, device: th.device | str = "auto", *, trusted: bool = False) -> Self:
        """
        Load a policy without running code from the file.

        :param path: The file
        :param device: Device on which the policy should run
        :param trusted: Whether code from the file may be run. That is needed for a file that SB3's policies saved, and
            for policies that cannot be written as plain data
        :return: The policy
        :raises UntrustedFileError: If code from the file would have to be run
        :raises SavedFileError: If the file is damaged, or no such policy can be made of it
        """
        what = name_of(path)
        saved = read_policy(path, trusted)
        if saved is None:
            raise SavedFileError(f"{what} holds no policy, or is damaged; a model is loaded by its algorithm")
        try:
            arguments = {"lr_schedule": cls._dummy_schedule, **saved["data"]}
            weights = saved["state_dict"]
            check_network_arguments(arguments, len(weights))
            with AllocationLimit(count(weights)):
                policy = cls(**arguments)
            policy.load_state_dict(weights)
        except Exception as error:  # what constructors raise for what they cannot take
            raise SavedFileError(f"{what}: no {cls.__name__} can be made of it: {reason(error)}") from error
        return policy.to(get_device(device))


def _written(policy: BasePolicy) -> bytes:
    arguments = policy._get_constructor_parameters()
    plain = {name: value for name, value in arguments.items() if name != "lr_schedule"}  # which is of no use
    content = {"state_dict": policy.state_dict(), "data": plain}
    written, index = write_tensors(content, "policy", pickled={"data": arguments})
    file = io.BytesIO(written)
    archive = SafeArchive(file, "policy", MAX_TENSORS)
    checksums = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.names()}
    document = json.dumps({"format": _FORMAT, "index": index, "sha256": checksums}, allow_nan=False).encode()
    if len(document) > MAX_JSON_BYTES:
        raise NotPlainError("the policy", "one with large arrays in its arguments")
    with zipfile.ZipFile(file, "a") as appended:
        appended.writestr(_JSON, document)
        appended.writestr(_DIGEST, hashlib.sha256(document).hexdigest())
    return file.getvalue()


def read_policy(path: File, trusted: bool) -> dict[str, Any] | None:
    """
    Read a policy's file.

    :param path: The file
    :param trusted: Whether code from the file may be run
    :return: The weights, ``state_dict``, and the constructor's arguments, ``data``; None if it is no policy's file
    :raises UntrustedFileError: If code from the file would have to be run, and it is not trusted
    :raises SavedFileError: If the file is damaged
    """
    what = name_of(path)
    with opened(path, "r") as file:
        archive = SafeArchive(file, what, MAX_TENSORS)
        if not any(name.endswith("/data.pkl") for name in archive.names()):  # which all of PyTorch's files have
            file.seek(0)
            return None
        if _JSON in archive:
            return _read_plain(archive, file)
        if not trusted:
            raise UntrustedFileError(
                f"{what} is a policy that was saved as SB3 does it, so that loading it runs code from the file; pass "
                "trusted=True if you trust whoever made it"
            )
        file.seek(0)
        saved = th.load(file, map_location="cpu", weights_only=False)
        if not isinstance(saved, dict) or not {"state_dict", "data"} <= set(saved):
            raise SavedFileError(f"{what} is not a file of policy.save")
        return saved


def _read_plain(archive: SafeArchive, file: BinaryIO) -> dict[str, Any]:
    document = archive.read_json(_JSON)
    try:
        check_checksum(archive.read(_JSON), archive.read(_DIGEST).decode(errors="replace"), f"{archive.what}: {_JSON}")
        if document["format"] != _FORMAT:
            raise ValueError("it was saved by another version of this package")
        for name, checksum in document["sha256"].items():
            check_checksum(archive.read(name), checksum, f"{archive.what}: {name}")
        content: dict[str, Any] = read_tensors(file, document["index"], archive.what)
        if set(content) != {"state_dict", "data"} or not all(isinstance(part, dict) for part in content.values()):
            raise ValueError("it has no weights or no arguments")
    except SavedFileError:
        raise
    except Exception as error:  # of what is of another type than it should be
        raise SavedFileError(f"{archive.what} does not hold a policy: {reason(error)}") from error
    return content
