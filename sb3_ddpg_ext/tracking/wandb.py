"""Runs in Weights & Biases. Without a login, or with ``WANDB_MODE=offline``, they are in the run directory only."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_ddpg_ext.tracking.tracker import PROJECT, Tracker, kept

if TYPE_CHECKING:
    from wandb import Run  # an extra: imported where it is used

_EXIT_CODES = {"finished": 0, "interrupted": 255, "failed": 1}  # wandb gives those that Ctrl-C ends 255


@contextlib.contextmanager
def _torn_down_if_it_fails() -> Iterator[None]:
    """Without it, wandb's process would be tried once more, and fail, at exit."""
    try:
        yield
    except Exception:
        import wandb

        with contextlib.suppress(Exception):
            wandb.teardown(exit_code=1)
        raise


class WeightsAndBiases(Tracker):
    """A run in Weights & Biases."""

    _run: "Run"

    @_torn_down_if_it_fails()
    def start(self, directory: Path, config: Mapping[str, Any]) -> None:
        import wandb

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
        self._run = wandb.init(
            project=given.project or PROJECT,
            name=directory.name,
            dir=directory,
            id=kept(directory / "wandb_id.txt", lambda: secrets.token_hex(8)),
            resume="allow",
            reinit="create_new",  # whoever trains in a program may have a run of their own
            config=dict(config),
            mode="offline" if asks else None,
            settings=settings,
        )
        # Its own steps only ever grow, and a resumed run begins at a checkpoint
        self._run.define_metric("*", step_metric="step")

    @_torn_down_if_it_fails()
    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({**numbers, "step": step})

    @_torn_down_if_it_fails()
    def end(self, status: str, final: Mapping[str, float], step: int) -> None:
        self._run.summary.update({"status": status, "step": step, **final})
        self._run.finish(exit_code=_EXIT_CODES[status])
