"""Runs in MLflow: on the server that ``MLFLOW_TRACKING_URI`` names, or wherever else MLflow keeps them."""

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_ddpg_ext.errors import SettingsError, one_line
from sb3_ddpg_ext.tracking.tracker import PROJECT, Tracker, kept

if TYPE_CHECKING:
    from mlflow import MlflowClient  # an extra: imported where it is used
    from mlflow.entities import Metric

_STATUSES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


def _client() -> "MlflowClient":
    # Nothing on the screen, and no statistics to MLflow's makers, unless the user's environment asks for them
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # A server that is gone holds up the start and the end of a run for half a minute, not for four
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    from mlflow import MlflowClient

    return MlflowClient()


def check_store() -> None:
    """
    Check that MLflow has a store for runs. Whether a server answers is not asked.

    :raises SettingsError: If it has none
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") and find_spec("sqlalchemy") is None:
        raise SettingsError(
            "mlflow has no store: set MLFLOW_TRACKING_URI to the address of a server, or pip install mlflow for a "
            "database in this folder"
        )
    try:
        _client()
    except Exception as error:  # of a store, which may be a plugin
        raise SettingsError(f"mlflow cannot open its store: {one_line(error)}") from error


class MLflow(Tracker):
    """A run in MLflow. Training does not wait for the server: one request at a time is sent from another thread."""

    _client: "MlflowClient"
    _run_id: str
    _request: "Future[Any]"
    """The last one"""

    def __init__(self) -> None:
        self._sender = ThreadPoolExecutor(1)
        self._waiting: list[Metric] = []

    def start(self, directory: Path, config: Mapping[str, Any]) -> None:
        self._client = _client()
        self._run_id = kept(directory / "mlflow_id.txt", lambda: self._new_run(directory.name, config))
        self._request = self._sender.submit(self._client.update_run, self._run_id, status="RUNNING")

    def _new_run(self, name: str, config: Mapping[str, Any]) -> str:
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

        run_id = str(self._client.create_run(self._experiment_id(), run_name=name).info.run_id)
        params = dict(_flat(config))
        for key in [key for key, value in params.items() if len(value) > MAX_PARAM_VAL_LENGTH]:
            warnings.warn(f"mlflow does not get {key}, which is longer than it allows", stacklevel=2)
            del params[key]
        self._client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
        return run_id

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:  # so it was not that another run has just made it
                    raise
        return str(experiment.experiment_id)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._waiting += [Metric(name, value, now, step) for name, value in numbers.items()]
        if self._request.done():
            self._request.result()  # raises what the request has raised
            self._request = self._sender.submit(self._client.log_batch, self._run_id, self._waiting)
            self._waiting = []

    def end(self, status: str, final: Mapping[str, float], step: int) -> None:
        self._request.result()
        self.log(final, step)  # and what has been waiting
        self._request.result()
        self._client.set_terminated(self._run_id, _STATUSES[status])


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """:return: What MLflow takes: names with dots for nested settings, and texts"""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
