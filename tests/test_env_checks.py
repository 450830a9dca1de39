"""Whatever is wrong with an environment is said in one line, with the environment and the step, by all commands."""

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from processes import forked
from stable_baselines3.common.vec_env import VecEnv

from sb3_ddpg_ext.building import make_env
from sb3_ddpg_ext.env_checks import CheckedEnv
from sb3_ddpg_ext.errors import FaultyEnvironmentError
from sb3_ddpg_ext.settings import parse_settings

HELPERS = str(Path(__file__).parent / "helpers")
PATHS = os.pathsep.join([HELPERS, *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONPATH": PATHS}
TINY = ["--quiet", "--eval-episodes", "1", "-p", "learning_starts=10", "-p", "batch_size=8", "-p", "buffer_size=500"]
TINY += ["-p", "policy_kwargs={net_arch: [8]}"]
ENV, RUN = "faulty_envs:Faulty-v0", "runs/custom_ddpg/Faulty-v0_1"


def run(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (cwd / "faulty_envs.py").write_text(Path(HELPERS, "faulty_envs.py").read_text())
    return forked(arguments, cwd, {**ENVIRONMENT, **environment}, timeout=120)


def train(cwd: Path, fault: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kwargs = ["-p", f"env_kwargs={{fault: {fault}}}", "--eval-freq", "0", "--steps", "100"]
    return run(cwd, "train", "--env", ENV, *TINY, *kwargs, *arguments, **environment)


FAULTS = {
    "raises": "KeyError: 'no such\\njoint'",
    "exits": "SystemExit: 3",
    "scalar observation": "returned an observation of the shape (), expected (3,), as its observation_space says",
    "short observation": "returned an observation of the shape (1,), expected (3,), as its observation_space says",
    "text observation": "returned the observation 'upright' (str), expected numbers of the shape (3,)",
    "no observation": "returned the observation None (NoneType), expected numbers of the shape (3,)",
    "array reward": "returned the reward array([",
    "no reward": "returned the reward None (NoneType), expected a number",
    "text reward": "returned the reward 'high' (str), expected a number",
    "no terminated": "returned terminated=None (NoneType), expected True or False",
    "no info": "returned the info None (NoneType), expected a dict",
    "four values": "returned 4 values, expected five values: observation, reward, terminated, truncated, info",
    "one value": "returned None (NoneType), expected five values: observation, reward, terminated, truncated, info",
    "reset raises": "RuntimeError: cannot reset",
    "reset returns one value": "returned array([",
    "reset returns no info": "returned the info None (NoneType), expected a dict",
    "reset returns a short observation": "returned an observation of the shape (2,), expected (3,)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line(fault: str, tmp_path: Path) -> None:
    result = train(tmp_path, fault)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    when = "reset() after 20 steps" if fault.startswith("reset") else "step 30"
    place = r" \(faulty_envs.py:\d+\)" if re.match(r"\w+: ", FAULTS[fault]) else ""
    where = rf"environment '{ENV}' \(index 0\), {re.escape(when)}{place}"
    assert re.match(f"error: {where}: {re.escape(FAULTS[fault])}", line)
    assert line.endswith(f" (what was reached is in {RUN}; --traceback shows more)")
    # What was reached, and why it ended
    assert (tmp_path / RUN / "Faulty-v0.zip").exists()
    assert (tmp_path / RUN / "learning_curve.png").exists()
    record = json.loads((tmp_path / RUN / "result.json").read_text())
    assert record["status"] == "failed"
    assert f"error: {record['where']}: {record['error']} (what" in line


@pytest.mark.parametrize("fault", ["raises", "exits", "scalar observation", "no info", "reset raises", "killed"])
def test_in_another_process(fault: str, tmp_path: Path) -> None:
    result = train(tmp_path, fault, "--vec-env", "subproc", "--n-envs", "2")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    if fault == "killed":
        died = f"error: environment '{ENV}' (index 0), step 30: its process was killed by SIGKILL, out of memory?"
        assert result.stderr.startswith(died)
    else:
        assert result.stderr.startswith(f"error: environment '{ENV}' (index 0), ")
        assert FAULTS[fault] in result.stderr
    assert (tmp_path / RUN / "Faulty-v0.zip").exists()


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
@pytest.mark.parametrize(("flag", "environment"), [(["--traceback"], {}), ([], {"SB3_DDPG_TRACEBACK": "1"})])
def test_traceback(vec_env: str, flag: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    result = train(tmp_path, "raises", "--vec-env", vec_env, *flag, **environment)
    assert result.returncode == 2
    assert re.search(r'faulty_envs.py", line \d+, in step', result.stderr)
    assert result.stderr.splitlines()[-1].startswith(f"error: environment '{ENV}' (index 0), step 30 (faulty_envs.py:")


def test_a_wrapper_that_raises(tmp_path: Path) -> None:
    result = train(tmp_path, "none", "-p", "env_wrapper=faulty_envs.FaultyWrapper")
    where = rf"environment '{ENV}' \(index 0\), step 30 \(faulty_envs.py:\d+\)"
    assert re.match(f"error: {where}: ZeroDivisionError: division by zero", result.stderr)


def test_keys_of_dict_observations(tmp_path: Path) -> None:
    result = train(tmp_path, "none", "-p", "env_wrapper=faulty_envs.FaultyKeys", "-p", "policy=MultiInputPolicy")
    line = result.stderr.splitlines()[-1]
    assert "returned an observation with the keys a, expected a dict with the keys a, b" in line


def test_in_an_evaluation(tmp_path: Path) -> None:
    kwargs = ["-p", "env_kwargs={fault: no reward, at: 15}", "--eval-freq", "10", "--steps", "12"]
    result = run(tmp_path, "train", "--env", ENV, *TINY, *kwargs)
    expected = f"error: evaluation environment '{ENV}' (index 0), step 15: returned the reward None"
    assert result.stderr.splitlines()[-1].startswith(expected)

    good = ["-p", "env_kwargs={at: 15}", "--eval-freq", "0", "--steps", "12"]
    assert run(tmp_path, "train", "--env", ENV, *TINY, *good).returncode == 0
    directory = tmp_path / "runs/custom_ddpg/Faulty-v0_2"
    config = directory / "Faulty-v0/config.yml"
    config.write_text(config.read_text().replace("at: 15", "at: 15\n  fault: no reward"))
    result = run(tmp_path, "evaluate", str(directory), "--model", "last", "--episodes", "1")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(expected)


def test_a_comparison_shows_the_tracebacks_of_its_failures(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        *("compare", "--algos", "custom_ddpg:env_kwargs={fault: raises}", "--envs", ENV, "--seeds", "1"),
        *("--steps", "60", "--eval-episodes", "10", "--workers", "1", "--quiet", "--traceback"),
    )
    assert result.returncode == 1, result.stderr
    assert re.search(r'faulty_envs.py", line \d+, in step', result.stdout)


def test_each_command_knows_the_flag(tmp_path: Path) -> None:
    for command in ([], ["train"], ["evaluate"], ["compare"], ["tune"], ["benchmark"]):
        assert "SB3_DDPG_TRACEBACK" in run(tmp_path, *command, "--help").stdout
    line = "error: nothing does not exist; expected a run directory or a model's .zip file"
    for arguments in (["--traceback", "evaluate", "nothing"], ["evaluate", "nothing", "--traceback"]):
        lines = run(tmp_path, *arguments).stderr.splitlines()
        assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", line)


def test_in_a_comparison_the_others_go_on(tmp_path: Path) -> None:
    algos = "custom_ddpg,custom_ddpg:env_kwargs={fault: no info}"
    result = run(
        tmp_path,
        *("compare", "--algos", algos, "--envs", ENV, "--seeds", "1", "--steps", "60", "--eval-freq", "30"),
        *("--eval-episodes", "10", "--workers", "0", "--quiet"),
    )
    assert result.returncode == 1, result.stderr
    records = [json.loads(file.read_text()) for file in tmp_path.glob("runs/compare/*/*/result.json")]
    assert sorted(record["status"] for record in records) == ["failed", "finished"]
    (failed,) = (record for record in records if record["status"] == "failed")
    assert (failed["error"], failed["where"]) == (FAULTS["no info"], f"environment '{ENV}' (index 0), step 30")
    assert f"failed: {failed['error']}, in {failed['where']}" in result.stdout
    assert "test_env_checks" not in failed["traceback"]
    assert "Traceback" in failed["traceback"]
    assert "Traceback" not in result.stdout + result.stderr
    assert failed["where"] in (tmp_path / "runs/compare/report.html").read_text().replace("&#39;", "'")


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_in_a_search(workers: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yml").write_text(
        f"{ENV}: {{n_timesteps: 60, policy: MlpPolicy, learning_starts: 10, env_kwargs: {{fault: no info}}}}"
    )
    result = run(
        tmp_path,
        *("tune", "--env", ENV, "--trials", "1", "--seeds", "1", "--eval-freq", "30", "--eval-episodes", "1"),
        *("--hyperparams", "settings.yml", "--workers", workers, "--top", "0", "--quiet", "--no-write"),
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        f"error: environment '{ENV}' (index 0), step 30: {FAULTS['no info']}"
    )


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        ("Box(-1, 1, (1,), dtype='int64')", "its numbers are integers (int64)"),
        ("Box(low=np.float32([-1, 0.5]), high=np.float32([1, 0.5]))", "its bounds are equal in component 1"),
    ],
)
def test_actions_that_leave_no_choice(space: str, reason: str, tmp_path: Path) -> None:
    code = f"""
import gymnasium as gym, numpy as np
from gymnasium.spaces import Box
from gymnasium.envs.classic_control import PendulumEnv

class Other(PendulumEnv):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.action_space = {space}

gym.register('Other-v0', Other, max_episode_steps=20)
"""
    (tmp_path / "actions.py").write_text(code)
    result = run(tmp_path, "train", "--env", "actions:Other-v0", *TINY)
    assert result.returncode == 2
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error"))
    assert reason in line
    assert "(low == high ==" in line or "round in the environment" in line
    assert not (tmp_path / "runs").exists()


# --- In this process ---


def make(name: str, vec_env: str = "dummy", n_envs: int = 2, **raw: Any) -> VecEnv:
    settings = parse_settings("custom_ddpg", {"n_timesteps": 100, **raw}, "test")
    return make_env(f"faulty_envs:{name}-v0", settings, n_envs, 0, vec_env=vec_env)


def steps(env: VecEnv, n: int) -> np.ndarray:
    for _ in range(n):
        _, rewards, *_ = env.step(np.zeros((env.num_envs, 1)))
    return rewards


def test_what_its_author_has_put_around_an_environment_belongs_to_it() -> None:
    env = make("Adapted")
    env.reset()
    steps(env, 30)


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_attributes_are_set_as_without_checks(vec_env: str) -> None:
    with contextlib.closing(make("Faulty", vec_env, env_wrapper="faulty_envs.Levels")) as env:
        env.reset()
        env.set_attr("level", 3)
        assert env.get_attr("level") == [3, 3]
        assert steps(env, 1).tolist() == [3, 3]


def test_an_environment_that_cannot_be_closed_has_been_trained_in() -> None:
    env = make("ClosesBadly", n_envs=1)
    env.reset()
    steps(env, 1)
    with pytest.warns(
        UserWarning, match=r"ClosesBadly-v0' \(index 0\), close\(\) \(faulty_envs.py:\d+\): ConnectionError"
    ):
        env.close()


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_the_first_fault_is_what_is_said(vec_env: str) -> None:
    env = make("ClosesBadly", vec_env, 1, env_kwargs={"fault": "raises", "at": 3})
    env.reset()
    with pytest.raises(FaultyEnvironmentError, match=r"step 3 .*KeyError"), contextlib.closing(env):
        steps(env, 3)


def test_a_process_that_cannot_make_its_environment_says_why() -> None:
    where = r"environment 'faulty_envs:OnlyHere-v0' \(index 0\), while it was being made \(faulty_envs.py:\d+\): "
    with pytest.raises(FaultyEnvironmentError, match=where + "OSError: port 5000 is in use") as caught:
        make("OnlyHere", "subproc")
    assert "in __init__" in caught.value.trace


def test_a_process_that_dies_is_named_whatever_it_is_asked() -> None:
    env: Any = make("Faulty", "subproc", 3)
    env.reset()
    steps(env, 4)
    env.processes[1].kill()
    env.processes[1].join()
    message = r"environment 'faulty_envs:Faulty-v0' \(index 1\), step 4: its process was killed by SIGKILL"
    with pytest.raises(FaultyEnvironmentError, match=message):
        env.get_attr("spec")
    with pytest.raises(FaultyEnvironmentError, match=message.replace("step 4", "step 5")):
        steps(env, 1)
    env.close()
    assert [process.exitcode for process in env.processes] == [0, -9, 0]


class Returns(gym.Env):
    observation_space: Any = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, *result: Any) -> None:
        self.result = result

    def step(self, action: Any) -> Any:
        return self.result


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (spaces.Discrete(3), np.array([1]), r"an observation of the shape \(1,\), expected \(\)"),
        (spaces.MultiBinary(3), [1, 0], r"an observation of the shape \(2,\), expected \(3,\)"),
        (spaces.Box(-1, 1, (2,)), [[1], [1, 2]], r"the observation \[\[1\], \[1, 2\]\] \(list\), expected numbers"),
        (spaces.Dict(a=spaces.Box(-1, 1, (2,))), {"a": np.zeros(1)}, r"of the shape \(1,\), .* \(key 'a'\)"),
    ],
)
def test_observations_of_other_spaces(space: Any, observation: Any, message: str) -> None:
    env = Returns(observation, 1.0, False, False, {})
    env.observation_space = space
    with pytest.raises(FaultyEnvironmentError, match=message):
        CheckedEnv(env, "environment", 0).step(None)


@pytest.mark.parametrize(
    "result",
    [
        (np.zeros(2), 1.0, False, False, {}),
        ([0, 1], 1, np.False_, True, {}),
        ((0.0, 1.0), np.float32(1), False, np.bool_(False), {}),
        (np.zeros(2, np.int64), np.array(1.0), False, False, {}),
        (np.zeros(2), np.float64(1), np.array(True), False, {}),
        (np.full(2, np.nan), np.nan, False, False, {}),  # the algorithm says more about these
    ],
)
def test_what_is_no_fault(result: Any) -> None:
    returned = CheckedEnv(Returns(*result), "environment", 0).step(None)
    assert all(a is b for a, b in zip(returned, result, strict=True))


def test_an_error_is_the_same_after_pickling() -> None:
    import pickle

    error = FaultyEnvironmentError("environment 'E-v0'", 0, "step 3", "raised KeyError", "Traceback")
    restored = pickle.loads(pickle.dumps(error))
    assert (str(restored), restored.trace) == (str(error), "Traceback")
    assert str(error) == "environment 'E-v0' (index 0), step 3: raised KeyError"
