"""``sb3-ddpg check``, and the part of it with which training begins: environments with one fault each."""

from pathlib import Path

import pytest
from own_environment import POINT_MASS as GOOD
from processes import ENVIRONMENT, forked

from sb3_ddpg_ext.arguments import CheckArgs
from sb3_ddpg_ext.checking import check
from sb3_ddpg_ext.errors import SettingsError

# What is replaced in it, by what, and the line that is printed of it
WARNINGS = {
    "no time limit": (
        "self.n == self.limit",
        "False",
        "warning: it has no time limit; no episode ended in 60 random steps, and evaluations would not end by "
        "themselves. Set one with gymnasium.register(..., max_episode_steps=200), or -p",
    ),
    "ends by terminating only": (
        "False, self.n == self.limit",
        "self.n == self.limit, False",
        "warning: it has no time limit; 2 of 60 random steps ended an episode, after 25 steps, and a good policy may",
    ),
    "large observations": (
        "np.array([self.position, self.speed], np.float32)",
        "1000 * np.array([self.position, self.speed], np.float32)",
        "and networks learn badly from numbers far from 1: scale them in the environment, or use VecNormalize",
    ),
    "unequal observations": (
        "np.array([self.position, self.speed], np.float32)",
        "np.array([self.position, self.speed / 10000], np.float32)",
        "but component [1] is at most ",
    ),
    "huge rewards": ("-abs(self.position)", "-1e5 - abs(self.position)", "so that the critic's first errors are huge"),
    "tiny rewards": ("-abs(self.position)", "-abs(self.position) / 1e5", "so that the critic hardly learns from them"),
    "no rewards": ("-abs(self.position)", "0.0", "its rewards are from 0 to 0 in 60 random steps: exploration may not"),
    "unequal actions": (
        "spaces.Box(-1, 1, (1,), np.float32)",
        "spaces.Box(np.array([-1, -1e4], np.float32), np.array([1, 1e4], np.float32))",
        "warning: Component 1 of the action has a range 10,000 times that of component 0",
    ),
    "NumPy's numbers": (
        "-abs(self.position)",
        "np.float32(-abs(self.position))",
        "warning: its reward is a numpy.float32; return float(reward) (Stable-Baselines3's checker)",
    ),
    "what Stable-Baselines3 warns of": (
        "(1,), np.float32",
        "(1,), np.float64",
        "we recommend using np.float32 to avoid cast errors. (Stable-Baselines3's checker)",
    ),
    "what Gymnasium warns of": (
        "spaces.Box(-2e3, 2e3",
        "spaces.Box(-np.inf, 2e3",
        "warning: A Box observation space minimum value is -infinity. This is probably too low. (Gymnasium's checker)",
    ),
}
ERRORS = {
    "unbounded actions": (
        "spaces.Box(-1, 1, (1,)",
        "spaces.Box(-np.inf, np.inf, (1,)",
        "error: it has the action space Box(-inf, inf, (1,), float32), but its bounds must be finite; set them with",
    ),
    "discrete actions": (
        "spaces.Box(-1, 1, (1,), np.float32)",
        "spaces.Discrete(2)",
        "error: it has the action space Discrete(2), but a continuous one (Box) is needed",
    ),
    "wrong dtype": (
        "self.speed], np.float32)",
        "self.speed], np.float64)",
        "warning: the observation from reset() at step 0 is float64, its observation_space says float32: return",
    ),
    "out of bounds": (
        "spaces.Box(-2e3, 2e3, (2,)",
        "spaces.Box(-1e-3, 1e-3, (2,)",
        "outside of its observation_space, from -0.001 to 0.001: clip it, or widen the space",
    ),
    "NaN": (
        "return self.observation(), -abs",
        "self.speed = np.nan if self.n == 20 else self.speed; return self.observation(), -abs",
        "error: Environment 0 returned the observation nan in component 1 from step() at step 20; observations must be",
    ),
    "infinite reward": ("-abs(self.position)", "1 / np.float64(0)", "returned the reward inf at step 1; rewards must"),
    "reset without seed": (
        "*, seed=None, options=None):\n        super().reset(seed=seed)",
        "):",
        "unexpected keyword argument 'seed'; write def reset(self, *, seed=None, options=None)",
    ),
    "terminated is a number": ("False, self.n == self.limit", "0, self.n == self.limit", "terminated=0 (int), exp"),
    "four values": ("False, self.n == self.limit", "self.n == self.limit", "step 1: returned 4 values, expected five"),
    "wrong shape": ("self.speed], np", "self.speed, 0], np", "an observation of the shape (3,), expected (2,)"),
    "raises": (
        "self.n += 1",
        "self.n += 1; {}['joint']",
        "error: step 1 (my_env.py:20): KeyError: 'joint'",
    ),
    "no observation space": (
        "observation_space = spaces.Box(-2e3, 2e3, (2,), np.float32)",
        "",
        "error: it has no observation_space; set self.observation_space in __init__",
    ),
    "no seed": (
        "self.np_random.uniform(-1, 1)",
        "np.random.default_rng().uniform(-1, 1)",
        "warning: the same seed does not give the same episode, from step 0 on, so that runs cannot be repeated: call",
    ),
    "a space without networks": (
        "spaces.Box(-2e3, 2e3, (2,), np.float32)",
        "spaces.Tuple((spaces.Discrete(2),))",
        "error: Stable-Baselines3 has no networks for Tuple(Discrete(2)); use a Box",
    ),
}  # fmt: skip


def look(folder: Path, source: str, *arguments: str, command: str = "check") -> tuple[int, str, str]:
    """:return: Exit status, output and errors of a command in an environment"""
    (folder / "my_env.py").write_text(source)
    result = forked([command, "--env", "my_env:PointMass", *arguments], folder, ENVIRONMENT, timeout=60)
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout, result.stderr


def with_fault(fault: tuple[str, str, str]) -> str:
    assert GOOD.count(fault[0]) == 1
    return GOOD.replace(fault[0], fault[1])


def test_nothing_is_wrong(tmp_path: Path) -> None:
    status, output, errors = look(tmp_path, GOOD)
    assert (status, errors) == (0, "")
    *found, last = output.splitlines()
    assert {line.split(":")[0] for line in found} == {"ok"}
    assert found[3] == "ok: it truncates episodes itself; 20 of 500 random steps ended an episode, after 25 steps"
    assert last == "my_env:PointMass: errors 0, warnings 0"


@pytest.mark.parametrize("fault", WARNINGS.values(), ids=WARNINGS)
def test_a_warning(fault: tuple[str, str, str], tmp_path: Path) -> None:
    status, output, _ = look(tmp_path, with_fault(fault), "--steps", "60")
    assert status == 0, output
    assert any(line.startswith("warning: ") and fault[2] in line for line in output.splitlines()), output
    assert "error:" not in output


@pytest.mark.parametrize("fault", ERRORS.values(), ids=ERRORS)
def test_an_error(fault: tuple[str, str, str], tmp_path: Path) -> None:
    status, output, _ = look(tmp_path, with_fault(fault), "--steps", "60")
    assert status == 1, output
    assert any(fault[2] in line for line in output.splitlines()), output
    assert any(line.startswith("error: ") for line in output.splitlines())
    assert all(line.startswith(("ok: ", "warning: ", "error: ", "my_env:PointMass: ")) for line in output.splitlines())


def test_how_the_environment_is_made(tmp_path: Path) -> None:
    """As in training: with arguments, wrappers, and normalisation."""
    large = with_fault(WARNINGS["large observations"])
    limit = "env_wrapper={gymnasium.wrappers.TimeLimit: {max_episode_steps: 9}}"
    settings = ["-p", "env_kwargs.limit=0", "-p", limit, "-p", "normalize=true"]
    status, output, errors = look(tmp_path, large, *settings, "--steps", "90")
    assert (status, errors) == (0, "")
    assert "ok: its time limit is 9 steps; 10 of 90 random steps ended an episode, after 9 steps" in output
    assert "in 90 random steps, before they are normalised" in output


def test_bad_input(tmp_path: Path) -> None:
    for arguments, message in (
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["-p", "env_kwargs.limits=3"], "got an unexpected keyword argument 'limits'; did you mean 'limit'?"),
        (["--env", "my_env:PointMas"], "my_env: unknown environment 'PointMas'; did you mean 'PointMass'?"),
    ):
        status, output, errors = look(tmp_path, GOOD, *arguments)
        assert (status, output) == (2, "")
        assert errors.startswith("error: ")
        assert message in errors
        assert len(errors.splitlines()) == 1


def test_a_registered_environment() -> None:
    found = check(CheckArgs("Pendulum-v1", steps=250))
    assert {finding.level for finding in found} == {"ok", "warning"}
    assert any("its time limit is 200 steps" in finding.text for finding in found)
    with pytest.raises(SettingsError, match="NoSuchEnv"):
        check(CheckArgs("NoSuchEnv-v0"))


TRAIN = ["--steps", "60", "--eval-freq", "0", "--eval-episodes", "1", "-p", "learning_starts=50", "--quiet"]


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (WARNINGS["no time limit"], "warning: my_env:PointMass has no time limit. If it does not end its episodes"),
        (ERRORS["wrong dtype"], "warning: my_env:PointMass: the observation from reset() at step 0 is float64, its"),
        (ERRORS["out of bounds"], "warning: my_env:PointMass: the observation from reset() at step 0 is "),
        (ERRORS["unbounded actions"], "error: environment 'my_env:PointMass' has the action space Box(-inf, inf, (1,)"),
        (ERRORS["discrete actions"], "error: environment 'my_env:PointMass' has the action space Discrete(2), but"),
        (ERRORS["infinite reward"], "error: Environment 0 returned the reward inf at step 1; rewards must be finite"),
        (ERRORS["reset without seed"], "error: environment 'my_env:PointMass' (index 0), reset() after 0 steps"),
        (ERRORS["four values"], "error: environment 'my_env:PointMass' (index 0), step 1: returned 4 values, expected"),
        (ERRORS["raises"], "error: environment 'my_env:PointMass' (index 0), step 1 (my_env.py:20): KeyError: 'joint'"),
    ],
    ids=["no time limit", "wrong dtype", "out of bounds", "unbounded", "discrete", "inf", "seed", "values", "raises"],
)
def test_training_begins_with_the_quick_checks(fault: tuple[str, str, str], line: str, tmp_path: Path) -> None:
    arguments = [*TRAIN, "--eval-max-steps", "30"]
    status, _, errors = look(tmp_path, with_fault(fault), *arguments, command="train")
    lines = errors.splitlines()
    assert any(each.startswith(line) for each in lines), errors
    assert [each.startswith("error: ") for each in lines].count(True) == (status == 2)
    assert status == (0 if line.startswith("warning: ") else 2)
    assert (tmp_path / "runs").exists() == (status == 0)  # nothing is written before the environment is known to work
