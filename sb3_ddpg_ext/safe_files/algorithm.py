"""SB3's saving and loading, with files that can come from strangers."""

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from sb3_ddpg_ext.errors import UntrustedFileError
from sb3_ddpg_ext.safe_files.buffer_file import read_buffer, write_buffer
from sb3_ddpg_ext.safe_files.loading import is_sb3s, load_model, put_parameters, put_policy, read_parameters
from sb3_ddpg_ext.safe_files.model_file import File, name_of, opened, write_model
from sb3_ddpg_ext.safe_files.plain import NotPlainError
from sb3_ddpg_ext.safe_files.policy_file import read_policy

Self = TypeVar("Self", bound="SafelySavedAlgorithm")


class SafelySavedAlgorithm(OffPolicyAlgorithm):
    """SB3's ``OffPolicyAlgorithm``, whose files are read without running code from them."""

    def save(self, path: File, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save the model in a zip file, which SB3's tools can open, too. It has everything as plain data; what cannot be
        written as such, for instance a function of yours as learning rate, is kept as SB3 keeps it.

        :param path: The file, or a path, to which ``.zip`` is added if it has no suffix
        :param exclude: Names of attributes to leave out, in addition to the default ones
        :param include: Names of attributes to save that are left out by default
        """
        write_model(self, path, exclude, include)

    @classmethod
    def load(
        cls: type[Self],
        path: File,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = False,
        **kwargs: Any,
    ) -> Self:
        """
        Load a model from a zip file, without running code from it: nothing is unpickled, and what the file says is
        checked before it is used.

        :param path: The file, or a path, with or without ``.zip``
        :param env: The environment to run the model in; None if you only need predictions
        :param device: Device on which the code should run
        :param custom_objects: Values for attributes, in place of those in the file
        :param print_system_info: Whether to print SB3's notes on this system and on that of the saved model
        :param force_reset: Reset the environment before training goes on
        :param trusted: Whether code from the file may be run. That is needed for a file that SB3 or an early version of
            this package saved, and for attributes that cannot be written as plain data
        :param kwargs: Values for attributes, in place of those in the file
        :return: The model
        :raises UntrustedFileError: If code from the file would have to be run; says what to do
        :raises SavedFileError: If the file is damaged, or says what no model of this class can be
        """
        return load_model(
            cls, path, env, device, custom_objects, print_system_info, force_reset, trusted=trusted, **kwargs
        )

    def set_parameters(
        self,
        load_path_or_dict: File | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
        *,
        trusted: bool = False,
    ) -> None:
        """
        Take weights from a file or from what ``get_parameters`` returned.

        :param load_path_or_dict: The file, its path, or a nested dictionary. The file of ``policy.save`` has no
            optimizers; the model keeps its own
        :param exact_match: Whether all of the model's (or the policy's) parameters must be given, and no others
        :param device: Device on which the code should run
        :param trusted: Whether code from the file may be run, see :meth:`load`
        :raises UntrustedFileError: If code from the file would have to be run
        :raises SavedFileError: If the file is damaged, or its weights are not such a model's
        """
        if isinstance(load_path_or_dict, dict):
            super().set_parameters(load_path_or_dict, exact_match, device)
            return
        policy = read_policy(load_path_or_dict, trusted)
        if policy is not None:
            put_policy(self, policy["state_dict"], name_of(load_path_or_dict), exact_match=exact_match)
            return
        parameters = read_parameters(load_path_or_dict, trusted)
        if parameters is None:
            super().set_parameters(cast(Any, load_path_or_dict), exact_match, device)
        else:
            put_parameters(self, parameters, name_of(load_path_or_dict), exact_match=exact_match)

    def save_replay_buffer(self, path: File) -> None:
        """
        Save the replay buffer as plain data, as far as it is filled. A buffer of another class than those of SB3 and of
        this package, or one with copies of infos, is saved as SB3 does it.

        :param path: The file, or a path, to which SB3's ``.pkl`` is added if it has no suffix
        """
        assert self.replay_buffer is not None, "The replay buffer is not defined"
        try:
            with opened(path, "w", "pkl") as file:
                write_buffer(self.replay_buffer, file)
        except NotPlainError:
            super().save_replay_buffer(path)

    def load_replay_buffer(self, path: File, truncate_last_traj: bool = True, *, trusted: bool = False) -> None:
        """
        Load a replay buffer without running code from the file.

        :param path: The file, or a path, with or without ``.pkl``
        :param truncate_last_traj: For ``HerReplayBuffer``: whether the last trajectory is taken as finished
        :param trusted: Whether code from the file may be run. That is needed for a file that SB3 or an early version of
            this package saved, and for a buffer that cannot be written as plain data
        :raises UntrustedFileError: If code from the file would have to be run
        :raises SavedFileError: If the file is damaged, or holds another buffer than the model's
        """
        with opened(path, "r", "pkl") as file:
            is_plain = file.read(2) == b"PK"
            file.seek(0)
            if is_plain:
                assert self.replay_buffer is not None, "The replay buffer is not defined"
                self.replay_buffer = read_buffer(file, name_of(path), self.replay_buffer)
        if not is_plain:
            if not trusted:
                raise UntrustedFileError(
                    f"{name_of(path)} is a pickle, and loading it runs code from the file; pass trusted=True if you "
                    "trust whoever made it"
                )
            super().load_replay_buffer(path, truncate_last_traj)
        elif isinstance(self.replay_buffer, HerReplayBuffer):
            assert self.env is not None, "You must pass an environment at load time when using `HerReplayBuffer`"
            self.replay_buffer.set_env(self.env)
            if truncate_last_traj:
                self.replay_buffer.truncate_last_trajectory()


def is_saved_as_data(algorithm: type) -> bool:
    """:return: Whether models of an algorithm are saved as plain data: those of SBX are not"""
    return is_sb3s(algorithm) or issubclass(algorithm, SafelySavedAlgorithm)
