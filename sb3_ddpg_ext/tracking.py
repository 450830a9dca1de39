"""What a run logs, in Weights & Biases: ``sb3-ddpg train --track wandb``."""

import contextlib
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from sb3_ddpg_ext.errors import describe
from sb3_ddpg_ext.files import atomic

if TYPE_CHECKING:
    from wandb import Run  # an extra: imported where it is used

RUN_ID = "wandb_id.txt"
"""The file in a run directory with the id of the tracked run, with which a resumed run goes on in the same one."""
_EXIT_CODES = {"finished": 0, "interrupted": 255, "failed": 1}  # wandb gives those that Ctrl-C ends 255


class _Numbers(KVWriter):
    """
    Hands on the numbers among what is logged, with their step.

    :param log: What takes them
    """

    def __init__(self, log: Callable[[dict[str, Any]], None]) -> None:
        self._log = log

    def write(self, key_values: dict[str, Any], _: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self._log({key: value for key, value in key_values.items() if isinstance(value, Real)} | {"step": step})

    def close(self) -> None:
        pass


class Tracking(BaseCallback):
    """
    Sends all numbers that are logged to Weights & Biases, those of evaluations (``eval/mean_reward``) among them. If
    that fails, a warning says so once, and training goes on without it.

    Without a login, or with ``WANDB_MODE=offline``, everything is written into the run directory, and nothing else is
    done.

    :param directory: The run directory
    :param config: Returns the settings and arguments of the run, as plain data; called when training starts
    """

    def __init__(self, directory: Path, config: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._directory, self._config = directory, config
        self._run: Run | None = None

    def _on_training_start(self) -> None:
        with self._going_on_without_it():
            self._run = _start(self._directory, self._config())
        self.logger.output_formats.append(_Numbers(self._log))

    def _on_step(self) -> bool:
        return True

    def _log(self, values: dict[str, Any]) -> None:
        if self._run is not None:
            with self._going_on_without_it():
                self._run.log(values)

    def end(self, status: str, final_return: float | None = None) -> None:
        """
        Say how the run has ended, and wait until everything is written or uploaded.

        :param status: finished, interrupted or failed
        :param final_return: Mean return of the last model; None if it was not evaluated
        """
        if self._run is None:
            return
        with self._going_on_without_it():
            final = {} if final_return is None else {"final/mean_reward": final_return}
            self._run.summary.update({"status": status, **final})
            self._run.finish(exit_code=_EXIT_CODES[status])

    @contextlib.contextmanager
    def _going_on_without_it(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the disk, the network, wandb's process or server
            self._run = None
            warnings.warn(f"wandb failed, and does not track this run any more: {describe(error)}", stacklevel=2)
            import wandb

            with contextlib.suppress(Exception):  # ends wandb's process; otherwise this is tried, and fails, at exit
                wandb.teardown(exit_code=1)


def _start(directory: Path, config: Mapping[str, Any]) -> "Run":
    import wandb

    file = directory / RUN_ID
    if not file.exists():
        with atomic(file) as partial:
            partial.write_text(secrets.token_hex(8))
    # Nothing on the screen, and of the machine no more than SB3's logger knows
    settings = wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        disable_git=True,
        host="",
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    given = wandb.setup(settings).settings  # with the user's environment variables and files
    asks = given.mode == "online" and not wandb.login(prompt=False)  # for a login, in the middle of training
    run = wandb.init(
        project=given.project or "sb3_ddpg_ext",
        name=directory.name,
        dir=directory,
        id=file.read_text(),
        resume="allow",
        reinit="create_new",  # whoever trains in a program may have a run of their own
        config=dict(config),
        mode="offline" if asks else None,
        settings=settings,
    )
    # Its own steps only ever grow, and a resumed run begins at a checkpoint
    run.define_metric("*", step_metric="step")
    return run
