"""Runs in Trackio: in its database on this machine, or where ``TRACKIO_SPACE_ID`` or ``TRACKIO_SERVER_URL`` say."""

import contextlib
import contextvars
import io
import secrets
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_ddpg_ext.tracking.tracker import PROJECT, Tracker, kept

if TYPE_CHECKING:
    from trackio.run import Run  # an extra: imported where it is used


class Trackio(Tracker):
    """A run in Trackio. What fails while it writes is warned of by itself, and raises nothing."""

    _run: "Run"

    def start(self, directory: Path, config: Mapping[str, Any]) -> None:
        import trackio

        # It finds a run by its name, and runs of several folders have the same one
        name = kept(directory / "trackio_id.txt", lambda: f"{directory.name}-{secrets.token_hex(4)}")
        with _one_warning_at_most():
            # In a context of its own, since whoever trains in a program may have a run of their own
            self._run = contextvars.copy_context().run(
                trackio.init,
                project=PROJECT,
                name=name,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step)

    def end(self, status: str, final: Mapping[str, float], step: int) -> None:
        self._run.log({"status": status, **final}, step)
        with _one_warning_at_most():
            self._run.finish()


@contextlib.contextmanager
def _one_warning_at_most() -> Iterator[None]:
    """Nothing on the screen but one warning of several, which say the same."""
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield
    if caught:
        message = " ".join(str(caught[0].message).split())
        warnings.warn(message if "trackio" in message else f"trackio: {message}", stacklevel=3)
