"""``progress.csv``: the rows of SB3's logger, none lost and none twice, also in a run that is resumed."""

import csv
from pathlib import Path
from typing import Any

import pytest
from small_runs import TINY_PARAMS

from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.arguments import TrainArgs
from sb3_ddpg_ext.log_file import LogFile
from sb3_ddpg_ext.training import train


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(directory: Path, *logged: dict[str, Any], state: dict[str, int] | None = None) -> dict[str, int]:
    """:return: The state of a callback through which something was logged"""
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, buffer_size=10, action_noise="ou")
    log_file = LogFile(directory)
    if state is not None:
        log_file.set_state(state)
    model.learn(1, callback=log_file)
    for each in logged:
        for key, value in each.items():
            model.logger.record(key, value)
        model.logger.dump()
    reached = log_file.get_state()
    log_file.close()
    return reached


def test_a_run_goes_on_with_the_rows_of_its_checkpoint(tmp_path: Path) -> None:
    state = log(tmp_path, {"a": 1}, {"a": 2})
    assert state == {"rows": 2}
    log(tmp_path, {"a": 3, "b": 4}, state=state)  # what comes after the checkpoint is logged again
    assert log(tmp_path, {"b": 5}, {"c": 'six, or "6"'}, state=state) == {"rows": 4}
    values = [{key: value for key, value in row.items() if value} for row in rows(tmp_path)]
    assert values == [{"a": "1"}, {"a": "2"}, {"b": "5"}, {"c": 'six, or "6"'}]


def test_another_run_begins_with_an_empty_file(tmp_path: Path) -> None:
    log(tmp_path, {"a": 1})
    assert log(tmp_path, {"b": 2}) == {"rows": 1}
    assert rows(tmp_path) == [{"b": "2"}]


def test_a_file_that_is_gone_begins_anew(tmp_path: Path) -> None:
    assert log(tmp_path, {"b": 2}, state={"rows": 7}) == {"rows": 1}
    assert rows(tmp_path) == [{"b": "2"}]


@pytest.mark.parametrize("algo", ["custom_ddpg", "ddpg"])
def test_what_train_writes(algo: str, tmp_path: Path) -> None:
    args = {"steps": 1_000, "eval_freq": 500, "eval_episodes": 1, "quiet": True, "params": TINY_PARAMS}
    directory = train(TrainArgs("Pendulum-v1", algo, log_dir=tmp_path, **args)).directory  # type: ignore[arg-type]
    content = rows(directory)
    assert [row["time/total_timesteps"] for row in content] == ["500", "800", "1000"]
    assert [bool(row["eval/mean_reward"]) for row in content] == [True, False, True]
    assert content[1]["rollout/ep_rew_mean"]
    assert ("train/td_error" in content[1]) == (algo == "custom_ddpg")
