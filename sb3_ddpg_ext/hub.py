"""
Runs on the Hugging Face Hub: ``push`` uploads a run directory with a model card, ``pull`` downloads one. Nothing that
is pickled goes either way, so that whoever pulls a run need not trust its author.
"""

import contextlib
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sb3_ddpg_ext import report
from sb3_ddpg_ext.arguments import EvaluateArgs, PullArgs, PushArgs
from sb3_ddpg_ext.building import make_env
from sb3_ddpg_ext.errors import SettingsError, UntrustedFileError, describe, one_line, require
from sb3_ddpg_ext.evaluation import evaluate, find_model
from sb3_ddpg_ext.files import make_directory
from sb3_ddpg_ext.results.records import RunRecord
from sb3_ddpg_ext.results.result_file import read_run
from sb3_ddpg_ext.run_arguments import arguments_file
from sb3_ddpg_ext.settings import read_yaml

if TYPE_CHECKING:
    from huggingface_hub import HfApi  # an extra: imported where it is used

MAX_BYTES = 2**30
"""What is pulled has at most so many bytes, all files together."""
VIDEO = "replay.mp4"
"""The Hub shows a video of this name beside the card."""
_VIDEO_STEPS = 1_000  # some 20 s
_MONITOR = re.compile(r"\d+\.monitor\.csv")


def push(args: PushArgs) -> str:
    """
    Upload a run.

    :param args: Which one, and where to
    :return: The address of its page
    :raises SettingsError: For anything that the caller has to mend
    """
    api = _api(args.repo)
    from huggingface_hub import get_token

    if get_token() is None:
        raise SettingsError("no Hugging Face token: log in with `hf auth login`, or set HF_TOKEN")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / args.run.resolve().name
        assemble(args.run, folder, args.repo, video=args.video)
        with _errors_in_one_line(api, args.repo):
            url = str(api.create_repo(args.repo, private=args.private or None, exist_ok=True))
            info = api.model_info(args.repo)
            if args.private and not info.private:
                raise SettingsError(f"{args.repo} exists, and everybody can see it; make it private, or name another")
            there = [file.rfilename for file in info.siblings or ()]
            api.upload_folder(
                repo_id=args.repo,
                folder_path=folder,
                commit_message=f"Upload {folder.name} with sb3_ddpg_ext",
                # Of a run that was pushed before; nothing else is touched
                delete_patterns=[escape(file) for name in _envs(there) for file in files_of(name, there)],
            )
    return url


def pull(args: PullArgs) -> tuple[Path, list[str]]:
    """
    Download a run into a new directory: what is on :func:`files_of`'s list, and only if its models can be loaded
    without running code from them.

    :param args: Which one, and where to
    :return: The run directory, and the names of the files that were left out
    :raises SettingsError: For anything that the caller has to mend. Nothing is kept then
    """
    api = _api(args.repo)
    directory = args.directory or Path(args.repo.split("/")[1])
    if directory.exists():
        raise SettingsError(f"{directory} exists already; name another directory for {args.repo}")
    make_directory(directory.parent, "directory")
    with _errors_in_one_line(api, args.repo):
        info = api.model_info(args.repo, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    names = _chosen(sizes, args.repo)
    if (size := sum(sizes[name] for name in names)) > MAX_BYTES:
        raise SettingsError(f"{args.repo} has {size / 2**20:,.0f} MiB; at most {MAX_BYTES / 2**20:,.0f} are downloaded")
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=directory.parent) as temporary:
        downloaded, made = Path(temporary) / "downloaded", Path(temporary) / directory.name
        with _errors_in_one_line(api, args.repo):
            # Exactly these files of exactly this commit
            api.snapshot_download(
                args.repo, revision=info.sha, local_dir=downloaded, allow_patterns=[escape(name) for name in names]
            )
        for name in names:  # without the library's own notes beside them
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (downloaded / name).rename(made / name)
        try:
            check(made)
        except SettingsError as error:
            raise SettingsError(f"{args.repo} is refused: {error}") from error
        made.rename(directory)
    return directory, sorted(sizes.keys() - names - {".gitattributes"})


def files_of(name: str, files: Collection[str]) -> set[str]:
    """
    What of a run directory is published.

    :param name: The environment, as it is called in file names
    :param files: Names of files, relative to the directory
    :return: Those to publish: data that is read without pickle
    """
    published = {f"{name}.zip", f"{name}/vecnormalize.json", "best_model.zip", "best_model_vecnormalize.json"}
    published |= {f"{name}/args.yml", f"{name}/config.yml"}
    published |= {"evaluations.npz", "progress.csv", "result.json", "learning_curve.png", VIDEO, "README.md"}
    return {file for file in files if file in published or _MONITOR.fullmatch(file)}


def _chosen(files: Collection[str], repo: str) -> set[str]:
    """:return: The files of a repository that are downloaded"""
    for file in files:
        if ".." in file.split("/") or file.startswith("/") or "\\" in file or not file.isprintable():
            raise SettingsError(f"{repo} is refused: it has a file with the name {file[:100]!r}")
    names = _envs(files)
    if len(names) != 1:
        found = "none" if not names else f"{len(names)} of them"
        raise SettingsError(f"{repo} is not a run directory: expected one file ENV/args.yml in it, found {found}")
    return files_of(names[0], files)


def _envs(files: Collection[str]) -> list[str]:
    """:return: The environments of the runs that files belong to, as they are called in file names"""
    return [file.removesuffix("/args.yml") for file in files if re.fullmatch(r"\w[\w.-]*/args\.yml", file)]


def assemble(run: Path, folder: Path, repo: str, *, video: bool) -> None:
    """
    Make the folder to upload: the run directory without checkpoints, logs and pickles, with a picture of its learning
    curve, a video and a model card.

    :param run: The run directory
    :param folder: The folder, which does not exist
    :param repo: The repository that it is for
    :param video: Whether to record an episode. If that is not possible, a warning says why
    :raises SettingsError: If the run is not finished, or if its models could only be loaded by running code from them
    """
    args_file = arguments_file(run)
    if args_file is None:
        raise SettingsError(f"{run} is not a run directory: it holds no */args.yml")
    record = read_run(run)
    if not record.is_finished:
        raise SettingsError(f"{run} is not a finished run: {record.reason}")
    name = args_file.parent.name
    for file in files_of(name, [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / file, folder / file)
    # Folders of this machine are nobody's business
    arguments = {**read_yaml(args_file), "log_dir": "runs", "hyperparams": None}
    (folder / name / "args.yml").write_text(yaml.safe_dump(arguments))
    report.learning_curve(run).savefig(folder / "learning_curve.png")
    try:
        check(folder)
    except SettingsError as error:
        raise SettingsError(f"{run} cannot be pushed: {error}") from error
    (folder / VIDEO).unlink(missing_ok=True)
    if video:
        _record(folder, name)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    (folder / "README.md").write_text(card(record, name, repo, files), encoding="utf-8")


def check(directory: Path) -> None:
    """
    Load the models of a run directory as ``sb3-ddpg evaluate`` does: without running code from them.

    :param directory: The run directory
    :raises SettingsError: If one cannot be loaded, or there is none. The message does not name the directory
    """
    for which in ("best", "last") if (directory / "best_model.zip").exists() else ("last",):
        try:
            saved = find_model(directory, which)
            env = make_env(saved.env, saved.settings, 1, 0, training=False, vecnormalize=saved.vecnormalize)
            with contextlib.closing(env):
                saved.load(env, "cpu")
        except SettingsError as error:
            message = str(error).replace(f"{directory}/", "")
            if isinstance(error.__cause__, UntrustedFileError):
                message = "its models or their VecNormalize statistics are pickles: loading them runs code from them"
            raise SettingsError(message) from error


def _record(folder: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        videos = Path(temporary) / "videos"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Gymnasium's for a folder that exists
                evaluate(EvaluateArgs(folder, episodes=1, eval_max_steps=_VIDEO_STEPS, model="last", video=videos))
            shutil.copyfile(videos / f"{name}-episode-0.mp4", folder / VIDEO)
        except Exception as error:  # an environment that cannot be drawn raises anything
            warnings.warn(f"no video: {one_line(error)}", stacklevel=2)


def card(record: RunRecord, name: str, repo: str, files: Collection[str]) -> str:
    """
    Write the model card.

    :param record: What came out of the run
    :param name: The environment, as it is called in file names
    :param repo: The repository
    :param files: Names of its other files
    :return: ``README.md``: the Hub's metadata, then a page
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    score, best = record.score, record.best_evaluation
    assert score is not None  # of a finished run
    result = EvalResult(
        task_type="reinforcement-learning",
        task_name="reinforcement-learning",
        dataset_type=name,
        dataset_name=name,
        metric_type="mean_reward",
        metric_name="mean_reward",
        metric_value=f"{score.mean:.2f} +/- {score.std:.2f}",
        verified=False,
    )
    data = ModelCardData(
        library_name="stable-baselines3",
        pipeline_tag="reinforcement-learning",
        tags=[name, "deep-reinforcement-learning", "reinforcement-learning", "stable-baselines3", "sb3_ddpg_ext"],
        model_name=record.label,
        eval_results=[result],
    )
    directory = repo.split("/")[1]
    max_steps = 0 if record.protocol is None else record.protocol.max_steps
    cut_off = f" ({score.cut_off(max_steps)})" if score.cut_off(max_steps) else ""
    chosen = (
        ""
        if best is None or "best_model.zip" not in files
        else (
            f"\n- `best_model.zip`: the model of the best evaluation during training, at step {best.step:,}. Its mean "
            f"return there, {best.mean:.2f}, chose it, and is therefore too good on average."
        )
    )
    seen = f"\n\n[{VIDEO}]({VIDEO}) shows an episode of the last model." if VIDEO in files else ""
    loading = _in_python(record.env, name, repo, files) if record.algo == "custom_ddpg" else ""
    page = f"""\
# {record.label} on {name}

`{record.algo}` on `{record.env}`, trained for {record.steps:,} environment steps (seed {record.seed}) with
[Stable-Baselines3](https://github.com/DLR-RM/stable-baselines3) and its extension `sb3_ddpg_ext`.

- `{name}.zip`: the last model. Mean return **{score.mean:.2f} ± {score.std:.2f}** over {len(score.returns)} \
episodes that were not seen before{cut_off}; the first environment's seed was {score.seed:,}.{chosen}

![Learning curve](learning_curve.png){seen}

## How to use it

```bash
sb3-ddpg pull {repo} {directory}
sb3-ddpg evaluate {directory} --model last --episodes {len(score.returns)}
```

No code from these files is run: the models are plain data, and there is no pickle among them.
{loading}
## Settings

```yaml
{yaml.safe_dump(dict(record.settings), sort_keys=False).strip()}
```

## Versions

{", ".join(f"{package} {version}" for package, version in record.versions.items())}
"""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{page}"))


def _in_python(env: str, name: str, repo: str, files: Collection[str]) -> str:
    load = f'CustomDDPG.load(hf_hub_download("{repo}", "{name}.zip")'
    if f"{name}/vecnormalize.json" not in files:
        code = f"from sb3_ddpg_ext import CustomDDPG\n\nmodel = {load})"
    else:
        code = f"""\
from sb3_ddpg_ext import CustomDDPG, load_vecnormalize
from stable_baselines3.common.env_util import make_vec_env

env = load_vecnormalize(hf_hub_download("{repo}", "{name}/vecnormalize.json"), make_vec_env("{env}"))
env.training = env.norm_reward = False
model = {load}, env)"""
    return f"""
In Python:

```python
from huggingface_hub import hf_hub_download
{code}
```
"""


def _api(repo: str) -> "HfApi":
    require("huggingface_hub", "hub")
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        hf_hub_url(repo, "README.md")  # checks the name, without a network
    except HFValidationError as error:
        raise SettingsError(f"{repo!r} is no name of a repository: {one_line(error)}") from error
    if "/" not in repo:
        raise SettingsError(f"expected the repository as USER/NAME, got {repo!r}")
    return HfApi(library_name="sb3_ddpg_ext")


@contextlib.contextmanager
def _errors_in_one_line(api: "HfApi", repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except SettingsError:
        raise
    except RepositoryNotFoundError as error:
        login = "log in with `hf auth login`, or set HF_TOKEN"
        raise SettingsError(f"{api.endpoint} has no {repo}, or it is private: then {login}") from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            login = "log in with `hf auth login`, or set HF_TOKEN to one that may do that"
            raise SettingsError(f"{api.endpoint} refuses your token for {repo}; {login}") from error
        raise SettingsError(f"{api.endpoint}: {one_line(error)}") from error
    except OSError:  # of this machine, such as a full disk
        raise
    except Exception as error:  # those of the HTTP library: no network, say
        raise SettingsError(f"{api.endpoint} cannot be reached: {describe(error)}; check the network") from error
