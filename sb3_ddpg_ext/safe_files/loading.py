"""From a model's file to a model, and from a model to its weights, without running code from the file."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info

from sb3_ddpg_ext.errors import SavedFileError
from sb3_ddpg_ext.safe_files.archive import reason
from sb3_ddpg_ext.safe_files.checks import AllocationLimit, check_network_arguments, check_optimizer
from sb3_ddpg_ext.safe_files.model_file import VARIABLES, File, ModelFile, Parameters, name_of, opened
from sb3_ddpg_ext.safe_files.tensors import count

Model = TypeVar("Model", bound=BaseAlgorithm)


def is_sb3s(cls: type) -> bool:
    """:return: Whether an algorithm is one of SB3 or sb3-contrib itself, which can be saved and loaded as plain data"""
    return cls.__module__.split(".")[0] in ("stable_baselines3", "sb3_contrib")


def load_model(
    cls: type[Model],
    path: File,
    env: GymEnv | None = None,
    device: th.device | str = "auto",
    custom_objects: dict[str, Any] | None = None,
    print_system_info: bool = False,
    force_reset: bool = True,
    *,
    trusted: bool = False,
    **kwargs: Any,
) -> Model:
    """
    Load a model of any algorithm of SB3. See :meth:`sb3_ddpg_ext.CustomDDPG.load`.

    :param cls: The algorithm
    :param path: The file
    :param env: The environment
    :param device: Device of PyTorch
    :param custom_objects: Values for fields, in place of those in the file
    :param print_system_info: Whether to print SB3's notes on this machine and on that which saved the model
    :param force_reset: Whether the environment is reset before training goes on
    :param trusted: Whether code from the file may be run
    :param kwargs: Values for fields, in place of those in the file
    :return: The model
    :raises SavedFileError: If the file is damaged, or not a model of this algorithm
    :raises UntrustedFileError: If code from the file would have to be run, and it is not trusted
    """
    if custom_objects is not None and not isinstance(custom_objects, dict):
        raise ValueError("custom_objects argument must be a dict or None")
    with opened(path, "r") as file:
        what = name_of(path)
        model_file = ModelFile(file, what, trusted)
        model_file.require_trust()
        if not model_file.is_plain:
            file.seek(0)
            load = BaseAlgorithm.load.__func__  # type: ignore[attr-defined]
            loaded: Model = load(cls, path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
            return loaded
        if print_system_info:
            sys.stdout.write("== CURRENT SYSTEM INFO ==\n")
            get_system_info()
            sys.stdout.write(f"== SAVED MODEL SYSTEM INFO ==\n{model_file.system_info()}\n")
        chosen_kwargs = {name: value for name, value in kwargs.items() if name != "policy_kwargs"}
        fields = model_file.fields({**(custom_objects or {}), **chosen_kwargs}, cls)
        parameters = model_file.parameters()
        n_tensors = model_file.n_tensors()

    missing = [n for n in ("policy_class", "policy_kwargs", "observation_space", "action_space") if n not in fields]
    if missing:
        raise SavedFileError(f"{what} has no {missing[0]}")
    fields["policy_kwargs"] = {key: value for key, value in fields["policy_kwargs"].items() if key != "device"}
    if "policy_kwargs" in kwargs and kwargs["policy_kwargs"] != fields["policy_kwargs"]:
        raise ValueError(
            "The specified policy kwargs do not equal the stored policy kwargs. "
            f"Stored kwargs: {fields['policy_kwargs']}, specified kwargs: {kwargs['policy_kwargs']}"
        )
    if env is not None:
        env = cls._wrap_env(env, fields.get("verbose", 0))
        check_for_correct_spaces(env, fields["observation_space"], fields["action_space"])
        fields |= {"n_envs": env.num_envs, **({"_last_obs": None} if force_reset else {})}

    model = cls(policy=fields["policy_class"], env=env, device=device, _init_setup_model=False)  # type: ignore
    vars(model).update(fields)
    vars(model).update(kwargs)
    try:
        check_network_arguments(fields["policy_kwargs"], n_tensors)
        with AllocationLimit(count(parameters.get("policy"))):
            model._setup_model()
    except (AssertionError, SavedFileError):
        raise
    except Exception as error:  # what constructors raise for what they cannot take
        raise SavedFileError(f"{what}: no {cls.__name__} can be made of it: {reason(error)}") from error
    variables = parameters.pop(VARIABLES, {})
    put_parameters(model, parameters, what, exact_match=True)
    _put_variables(model, variables, what)
    if getattr(model, "use_sde", False):
        model.policy.reset_noise()  # type: ignore[operator]  # on the right device, see SB3's issue 44
    return model


def read_parameters(path: File, trusted: bool) -> Parameters | None:
    """
    Read the weights in a model's file.

    :param path: The file
    :param trusted: Whether code from the file may be run
    :return: The weights as :meth:`set_parameters` takes them; None for a file that SB3 has to read
    :raises SavedFileError: If the file is damaged
    :raises UntrustedFileError: If code from the file would have to be run, and it is not trusted
    """
    with opened(path, "r") as file:
        model_file = ModelFile(file, name_of(path), trusted)
        model_file.require_trust()
        if not model_file.is_plain:
            file.seek(0)
            return None
        parameters = model_file.parameters()
    parameters.pop(VARIABLES, None)
    return parameters


def put_parameters(model: BaseAlgorithm, parameters: Parameters, what: str, *, exact_match: bool) -> None:
    """
    Give a model the weights from a file.

    :param model: The model
    :param parameters: The weights
    :param what: What the file is called in errors
    :param exact_match: Whether all weights must be given
    :raises SavedFileError: If they are not such a model's
    """
    known, _ = model._get_torch_save_params()
    with _fitting(what):
        for name, state in parameters.items():
            if name not in known:
                raise ValueError(f"it has the weights {name[:100]!r}; a {type(model).__name__} has {', '.join(known)}")
            owner = recursive_getattr(model, name)
            if isinstance(owner, th.optim.Optimizer):
                check_optimizer(state, owner)
        BaseAlgorithm.set_parameters(model, parameters, exact_match, model.device)


def put_policy(model: BaseAlgorithm, weights: Mapping[str, Any], what: str, *, exact_match: bool) -> None:
    """
    Give a model the weights of a policy.

    :param model: The model
    :param weights: The weights
    :param what: What the file is called in errors
    :param exact_match: Whether all weights must be given
    :raises SavedFileError: If they are not such a model's
    """
    with _fitting(what):
        model.policy.load_state_dict(weights, strict=exact_match)


@contextlib.contextmanager
def _fitting(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what PyTorch raises for the weights of another network
        raise SavedFileError(f"{what}: its weights do not fit: {reason(error)}") from error


def _put_variables(model: BaseAlgorithm, variables: Mapping[str, Any], what: str) -> None:
    _, known = model._get_torch_save_params()
    for name, value in variables.items():
        if value is None:
            continue
        own = recursive_getattr(model, name, None) if name in known else None
        if not isinstance(value, th.Tensor) or own is None or value.shape != own.shape or value.dtype != own.dtype:
            raise SavedFileError(f"{what}: its variable {name[:100]!r} is not that of a {type(model).__name__}")
        own.data = value.to(own.device)
