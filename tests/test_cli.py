"""The command line as a user sees it: real processes, their output, their exit status."""

import contextlib
import fcntl
import json
import os
import platform
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from processes import forked, started

from sb3_ddpg_ext import __version__
from sb3_ddpg_ext.cli import COMMANDS, parse

ROOT = Path(__file__).parent.parent
TINY = ["--steps", "120", "--eval-freq", "60", "--eval-episodes", "2", "-p", "learning_starts=50", "-p", "batch_size=8"]
TINY += ["-p", "policy_kwargs=dict(net_arch=[8])", "-p", "buffer_size=1000"]
TINY += ["-p", "train_freq=1", "-p", "gradient_steps=1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy", "COLUMNS": "120"}


def sb3_ddpg(
    *args: str, cwd: Path, program: tuple[str, ...] = ("-m", "sb3_ddpg_ext")
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *args]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def refused(*args: str, cwd: Path) -> str:
    """The one line that a command prints when it refuses."""
    result = forked(args, cwd, ENVIRONMENT, timeout=120)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli")
    result = sb3_ddpg("train", "--env", "Pendulum-v1", *TINY, cwd=directory)
    assert result.returncode == 0, result.stderr
    assert "120/120" in result.stdout  # the progress bar
    record = json.loads((directory / "runs/custom_ddpg/Pendulum-v1_1/result.json").read_text())
    lines = result.stdout.splitlines()
    assert lines[-1] == "Saved in runs/custom_ddpg/Pendulum-v1_1"
    assert any(line.startswith(f"Last model: mean return {record['score']['mean']:.1f} ") for line in lines)
    assert any(line.startswith(f"Best model: mean return {record['best_evaluation']['mean']:.1f} ") for line in lines)
    return directory / "runs/custom_ddpg/Pendulum-v1_1"


def test_train_writes_a_picture(run_directory: Path) -> None:
    assert (run_directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_a_run_and_a_model(run_directory: Path, tmp_path: Path) -> None:
    result = sb3_ddpg("evaluate", str(run_directory), "--episodes", "2", "--model", "last", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    record = json.loads((run_directory / "result.json").read_text())
    assert f"mean return {record['score']['mean']:.1f} " in result.stdout
    (tmp_path / "alone.zip").write_bytes((run_directory / "Pendulum-v1.zip").read_bytes())
    arguments = ["evaluate", "alone.zip", "--algo", "custom_ddpg", "--env", "Pendulum-v1", "--episodes", "2"]
    assert sb3_ddpg(*arguments, cwd=tmp_path).stdout.startswith(
        f"alone.zip: mean return {record['score']['mean']:.1f} "
    )


def test_evaluate_records_a_video_for_each_episode(run_directory: Path, tmp_path: Path) -> None:
    result = sb3_ddpg("evaluate", str(run_directory), "--episodes", "2", "--video", "videos", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    videos = sorted((tmp_path / "videos").iterdir())
    assert [v.name for v in videos] == ["best_model-episode-0.mp4", "best_model-episode-1.mp4"]
    assert all(b"ftyp" in v.read_bytes()[:12] for v in videos)


@pytest.mark.slow
def test_evaluate_in_a_window(run_directory: Path, tmp_path: Path) -> None:
    result = sb3_ddpg("evaluate", str(run_directory), "--episodes", "1", "--render", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_script_is_the_same_program(tmp_path: Path) -> None:
    script = sb3_ddpg("--help", cwd=tmp_path, program=(str(ROOT / "scripts" / "train.py"),))
    module = sb3_ddpg("train", "--help", cwd=tmp_path)
    assert script.returncode == module.returncode == 0
    assert script.stdout == module.stdout
    assert "--eval-freq" in module.stdout


def test_the_script_can_start_processes(tmp_path: Path) -> None:
    """They import the script they were started from."""
    arguments = ["--env", "Pendulum-v1", *TINY, "--n-envs", "2", "--vec-env", "subproc", "--quiet"]
    result = sb3_ddpg(*arguments, cwd=tmp_path, program=(str(ROOT / "scripts" / "train.py"),))
    assert result.returncode == 0, result.stdout + result.stderr


def test_quiet_prints_the_result_only(tmp_path: Path) -> None:
    result = sb3_ddpg("train", "--env", "Pendulum-v1", *TINY, "--quiet", "--threads", "1", cwd=tmp_path)
    assert result.stderr == ""
    assert [line.split(" ")[0] for line in result.stdout.splitlines()] == ["Trained", "Last", "Best", "Saved"]


INSTALLED = (str(Path(sys.executable).with_name("sb3-ddpg")),)  # unlike `python -m`, it does not add the current folder
MY_ENVS = """
import gymnasium

gymnasium.register("mine/Swing-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=50)
"""


@pytest.mark.long
def test_an_environment_in_a_file_of_the_current_folder_in_other_processes(tmp_path: Path) -> None:
    (tmp_path / "my_envs.py").write_text(MY_ENVS)
    env = "my_envs:mine/Swing-v0"
    for arguments in (
        ["train", "--env", env, *TINY, "--quiet", "--n-envs", "2", "--vec-env", "subproc"],
        ["compare", "--envs", env, "--algos", "custom_ddpg", "--steps", "100", "--eval-episodes", "10", "--seeds", "1"],
    ):
        result = sb3_ddpg(*arguments, cwd=tmp_path, program=INSTALLED)
        assert result.returncode == 0, result.stdout + result.stderr


def test_an_environment_in_a_file_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "my_envs.py").write_text(MY_ENVS)
    result = sb3_ddpg("train", "--env", "my_envs:mine/Swing-v0", *TINY, "--quiet", cwd=tmp_path, program=INSTALLED)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "Saved in runs/custom_ddpg/mine-Swing-v0_1"
    result = sb3_ddpg("evaluate", "runs/custom_ddpg/mine-Swing-v0_1", "--episodes", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("vec_env", ["dummy", pytest.param("subproc", marks=pytest.mark.slow)])
def test_ctrl_c_saves_what_was_reached_and_says_so(vec_env: str, tmp_path: Path) -> None:
    arguments = ["train", "--env", "Pendulum-v1", *TINY, "--steps", "1000000", "--eval-freq", "0"]
    arguments += ["--n-envs", "2", "--vec-env", vec_env]
    monitor = tmp_path / "runs/custom_ddpg/Pendulum-v1_1/0.monitor.csv"
    deadline = time.monotonic() + 60
    with started(["-m", "sb3_ddpg_ext", *arguments], tmp_path) as process:
        while not (monitor.exists() and len(monitor.read_text().splitlines()) > 2):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the children as well
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    record = json.loads((monitor.parent / "result.json").read_text())
    assert f"Interrupted after {record['steps']:,} steps" in output
    assert "What was reached is saved in runs/custom_ddpg/Pendulum-v1_1" in output
    assert (monitor.parent / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    result = sb3_ddpg("evaluate", str(monitor.parent), "--model", "last", "--episodes", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


# --- Bad input: one line that says what was wrong, what was expected, how to mend it ---

BAD = {
    "unknown environment": (["train", "--env", "Pendulm-v1"], "'Pendulm-v1': .*Did you mean: `Pendulum`"),
    "unknown version": (["train", "--env", "Pendulum-v7"], "'Pendulum-v7': .*v7.*v1"),
    "unknown package": (["train", "--env", "no_such_package:Env-v0"], "No module named 'no_such_package'"),
    "environment refuses its arguments": (
        ["train", "--env", "Pendulum-v1", "-p", "env_kwargs={gravity: 3}"],
        "unexpected keyword argument 'gravity'",
    ),
    "wrapper without its arguments": (
        ["train", "--env", "Pendulum-v1", "-p", "vec_env_wrapper=stable_baselines3.common.vec_env.VecFrameStack"],
        "'Pendulum-v1': .*n_stack",
    ),
    "VecNormalize as a wrapper": (
        ["train", "--env", "Pendulum-v1", "-p", "vec_env_wrapper=stable_baselines3.common.vec_env.VecNormalize"],
        "vec_env_wrapper: VecNormalize is set by normalize",
    ),
    "callback refuses its arguments": (
        [
            "train",
            "--env",
            "Pendulum-v1",
            "-p",
            "callback={stable_baselines3.common.callbacks.CheckpointCallback: {a: 1}}",
        ],
        "callback: .*unexpected keyword argument 'a'",
    ),
    "impossible seed": (["train", "--env", "Pendulum-v1", "--seed", "4294967296"], "custom_ddpg: Seed must be between"),
    "no GPU": (["train", "--env", "Pendulum-v1", "--device", "cuda"], "--device cuda: PyTorch finds no CUDA device"),
    "policy for other observations": (
        ["train", "--env", "Pendulum-v1", "-p", "policy=MultiInputPolicy"],
        "custom_ddpg: ",
    ),
    "negative frequency": (["train", "--env", "Pendulum-v1", "--eval-freq", "-1"], "--eval-freq must be 0"),
    "discrete actions": (
        ["train", "--env", "CartPole-v1"],
        r"action space Discrete\(2\), but a continuous one \(Box\)",
    ),
    "unknown algorithm": (["train", "--env", "Pendulum-v1", "--algo", "dpg"], "unknown algorithm 'dpg'; did you mean"),
    "misspelt hyperparameter": (
        ["train", "--env", "Pendulum-v1", "-p", "lerning_rate=0.1"],
        "unknown hyperparameter 'lerning_rate'; did you mean 'learning_rate'",
    ),
    "mistyped hyperparameter": (
        ["train", "--env", "Pendulum-v1", "-p", "gamma=high"],
        "gamma: expected float, got 'high'",
    ),
    "impossible hyperparameter": (
        ["train", "--env", "Pendulum-v1", "-p", "tau=2"],
        "tau: expected above 0 and at most 1",
    ),
    "no steps": (["train", "--env", "Pendulum-v1", "--steps", "0"], "n_timesteps: expected 1 or more"),
    "no episodes": (
        ["train", "--env", "Pendulum-v1", "--eval-episodes", "0"],
        "--eval-episodes must be 1 or more, got 0",
    ),
    "no threads": (["train", "--env", "Pendulum-v1", "--threads", "0"], "--threads must be 1 or more, got 0"),
    "unknown device": (["train", "--env", "Pendulum-v1", "--device", "gpu"], "custom_ddpg: Expected one of cpu, "),
    "unknown noise": (["train", "--env", "Pendulum-v1", "-p", "noise_type=norml"], "unknown noise 'norml'"),
    "argument that the noise does not have": (
        ["train", "--env", "Pendulum-v1", "-p", "noise_kwargs={theta: 1}"],
        "custom_ddpg: unknown argument of the noise 'normal' 'theta'; known: schedule, std",
    ),
    "missing file": (
        ["train", "--env", "Pendulum-v1", "--hyperparams", "none.yml"],
        "none.yml: cannot be read: No such file",
    ),
    "unreadable YAML": (
        ["train", "--env", "Pendulum-v1", "--hyperparams", "bad.yml"],
        "bad.yml: not a YAML file: line 3",
    ),
    "unwritable log directory": (["train", "--env", "Pendulum-v1", "--log-dir", "a_file"], "cannot write to a_file"),
    "comparison without seeds": (
        ["compare", "--algos", "ddpg", "--envs", "Pendulum-v1", "--seeds", "0"],
        "--seeds must be 1 or more, got 0",
    ),
    "comparison with an unknown algorithm": (
        ["compare", "--algos", "ddpg,ddgp", "--envs", "Pendulum-v1"],
        "ddgp on Pendulum-v1: unknown algorithm 'ddgp'; did you mean 'ddpg'",
    ),
    "comparison in a file": (
        ["compare", "--algos", "ddpg", "--envs", "Pendulum-v1", "--log-dir", "a_file"],
        "cannot write to .*a_file/ddpg: Not a directory; choose another --log-dir",
    ),
    "no scheduler": (
        ["compare", "--algos", "ddpg", "--envs", "Pendulum-v1", "--scheduler", "host"],
        "no Dask scheduler answers at 'host'; expected an address such as tcp://host:8786",
    ),
    "no such run": (["evaluate", "runs/nothing"], "runs/nothing does not exist; expected a run directory or"),
    "not a run": (["evaluate", "."], "is not a run directory"),
    "a file outside of a run": (["evaluate", "a_file"], "a_file is not in a run directory: say --algo and --env"),
    "a damaged model": (
        ["evaluate", "a_file", "--algo", "custom_ddpg", "--env", "Pendulum-v1"],
        "a_file cannot be loaded as custom_ddpg",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("not a model")
    (tmp_path / "bad.yml").write_text("Pendulum-v1:\n  gamma: [0.9\n")
    if arguments[0] != "evaluate":
        arguments = [*arguments, "--quiet"]
    line = refused(*arguments, cwd=tmp_path)
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a_file", "bad.yml"]


def test_a_reward_that_is_not_a_number_ends_training_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import PendulumEnv\n"
        "class Broken(PendulumEnv):\n"
        "    def step(self, action):\n"
        "        observation, _, *rest = super().step(action)\n"
        "        return observation, float('nan'), *rest\n"
        "gymnasium.register('Broken-v0', Broken, max_episode_steps=50, disable_env_checker=True)\n"
    )
    line = refused("train", "--env", "my_envs:Broken-v0", *TINY, "--quiet", cwd=tmp_path)
    assert line.startswith("error: Environment 0 returned the reward nan at step 1;")


@pytest.mark.parametrize("module", ["tyro", "pydantic", "yaml", "matplotlib", "rich", "sb3_contrib"])
def test_a_missing_extra_is_named_with_the_line_that_installs_it(module: str, tmp_path: Path) -> None:
    blocked = f"import sys; sys.modules[{module!r}] = None; sys.argv = ['sb3-ddpg', 'train', '--env', 'Pendulum-v1', "
    blocked += "'--algo', 'tqc']; from sb3_ddpg_ext.__main__ import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", blocked], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.strip().endswith("pip install 'sb3_ddpg_ext[train]'")
    assert module in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_damaged_statistics_are_named(run_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.zip").write_bytes((run_directory / "Pendulum-v1.zip").read_bytes())
    (tmp_path / "alone_vecnormalize.pkl").write_text("not a pickle")
    arguments = ["evaluate", "alone.zip", "--algo", "custom_ddpg", "--env", "Pendulum-v1"]
    assert "alone_vecnormalize.pkl" in refused(*arguments, cwd=tmp_path)
    assert "exclude each other" in refused(*arguments, "--render", "--video", "v", cwd=tmp_path)
    assert "cannot write to alone.zip/v" in refused(*arguments, "--video", "alone.zip/v", cwd=tmp_path)


@pytest.mark.parametrize("command", [[], ["train"], ["tune"]])
def test_help_answers_without_what_the_commands_need(command: list[str], tmp_path: Path) -> None:
    heavy = {"torch", "stable_baselines3", "gymnasium", "numpy", "rich", "pydantic", "yaml"}
    code = f"""
import sys
from sb3_ddpg_ext.__main__ import main
try:
    main([*{command}, "--help"])
finally:
    print("loaded:", *{heavy} & set(sys.modules))
"""
    result = sb3_ddpg(cwd=tmp_path, program=("-c", code))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: sb3-ddpg")
    assert result.stdout.splitlines()[-1] == "loaded:"


def test_versions(tmp_path: Path) -> None:
    result = sb3_ddpg("--version", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = ", ".join(rf"{name} {version(name)}" for name in ("stable_baselines3", "torch", "gymnasium", "numpy"))
    assert result.stdout == f"sb3_ddpg_ext {__version__} ({names}, Python {platform.python_version()})\n"


def words(text: str) -> list[str]:
    return re.sub("[│╭╮╰╯─•]|---+", " ", text).split()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_breaks_no_word(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    helps = {}
    for columns in (80, 400):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit, match=r"^0$"):
            parse([*filter(None, [command]), "--help"])
        helps[columns] = capsys.readouterr().out
    assert {*words(helps[80])} == {*words(helps[400])}
    assert max(map(len, helps[80].splitlines())) <= 80
    assert "None}" not in helps[80]


def test_help_in_a_terminal_of_80_columns(tmp_path: Path) -> None:
    terminal, of_process = pty.openpty()
    fcntl.ioctl(of_process, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "sb3_ddpg_ext", "compare", "--help"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=of_process, stdin=of_process) as process:
        os.close(of_process)
        output = b""
        with contextlib.suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as stream:  # its end is an error
            while part := stream.read(4096):
                output += part
    assert process.returncode == 0
    assert b"\x1b[" in output  # in colours
    lines = re.sub(r"\x1b\[[\d;]*m", "", output.decode()).splitlines()
    assert lines[0] == "usage: sb3-ddpg compare [-h] [COMPARE OPTIONS]"
    assert max(map(len, lines)) == 80


def test_a_shell_completes_words(tmp_path: Path) -> None:
    script = sb3_ddpg("--tyro-print-completion", "bash", cwd=tmp_path).stdout
    function = re.findall(r"complete .*-F (\w+)", script)[-1]
    script += "\nCOMP_WORDS=(sb3-ddpg train --checkp) COMP_CWORD=2\n"
    script += f"{function} sb3-ddpg --checkp train; echo ${{COMPREPLY[@]}}"
    result = subprocess.run(["bash"], input=script, capture_output=True, text=True)
    assert result.stdout.startswith("--checkpoint-freq"), result.stderr


MISTAKES = {
    "command": (["trian"], "unknown command 'trian'; did you mean 'train'?"),
    "command after an option": (["--traceback", "evalaute"], "unknown command 'evalaute'; did you mean 'evaluate'?"),
    "no command like it": (["fly"], "unknown command 'fly'; known: benchmark, "),
    "no command": (["--traceback"], "say a command: train, "),
    "option": (["train", "--evn", "Pendulum-v1"], "unknown option '--evn'; did you mean '--env'?"),
    "option like no other": (["benchmark", "--quiet"], "unknown option '--quiet'; known: --cases, --help, "),
    "option with its value": (["tune", "--log_dri=x"], "unknown option '--log-dri'; did you mean '--log-dir'?"),
    "option of all commands": (["--tracebak", "train"], "unknown option '--tracebak'; did you mean '--traceback'?"),
    "short option": (["train", "-q"], "Unrecognized options: -q; sb3-ddpg train --help lists the options"),
    "number": (["train", "--steps", "many"], "--steps: no type matching INT could be instantiated from ['many']; "),
    "choice": (["train", "--vec-env", "x"], "invalid choice 'x' for argument '--vec-env'. Expected one of ('dummy', "),
    "no value": (["train", "--env"], "Missing value for argument '"),
    "missing": (["compare", "--algos", "ddpg"], "Missing from sb3-ddpg compare: --envs STR "),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_in_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match=r"^2$"):
        parse(arguments)
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_a_misspelt_command_as_a_user_sees_it(tmp_path: Path) -> None:
    assert refused("trian", "--env", "Pendulum-v1", cwd=tmp_path).startswith("error: unknown command 'trian'; did you")


def test_without_a_command(tmp_path: Path) -> None:
    result = sb3_ddpg(cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == sb3_ddpg("--help", cwd=tmp_path).stdout
    assert set(COMMANDS) <= {*words(result.stderr)}
