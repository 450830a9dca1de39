"""
The README and the documentation: their blocks run, their links lead somewhere, their figures are those of the data.

The blocks of a page run in order, in one folder, each in a process of its own:

- ``python``: run with warnings as errors;
- ``bash``: run line by line, up to the first that fails (but for ``make``, which CI runs on a clean checkout);
- ``console``: the lines after ``$`` are run, and print the lines below them (``...`` stands for anything);
- ``python`` or ``yaml`` that begins with a comment such as ``# my_env.py``: saved under this name;
- ``sh``: commands that take hours or several machines; the command line understands them;
- ``text``: not run.
"""

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote, urlsplit

import gymnasium as gym
import numpy as np
import pytest
import yaml
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

import sb3_ddpg_ext
from sb3_ddpg_ext.cli import parse
from sb3_ddpg_ext.report import analyse
from sb3_ddpg_ext.report.tables import summary as summary_table
from sb3_ddpg_ext.results.result_file import read_runs
from sb3_ddpg_ext.results.statistics import iqm
from sb3_ddpg_ext.tuning.table import TABLE
from sb3_ddpg_ext.variants import parse_variants

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
RL_ZOOS = "custom_ddpg:hyperparams=ddpg"
"""CustomDDPG with RL Zoo's settings for SB3's DDPG"""
PAGES = [README, *sorted(DOCS.glob("*.md"))]
EXAMPLE = re.compile(r"mean return (-\d+), standard deviation \d+")
# Tests run side by side: threads of PyTorch that wait for a core take several times as long
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """:return: The language and the text of each block of code; those of Sphinx (``{toctree}``) are none"""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if not language.startswith("{")]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, text=True, timeout=600, **streams)


def run_console(text: str, folder: Path) -> None:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *expected = part.splitlines()
        printed = iter(run(["bash", "-c", command], folder).stdout.splitlines())
        for line in expected:
            pattern = re.sub(r"([*?\[])", r"[\1]", line).replace("...", "*")
            assert any(fnmatchcase(each, pattern) for each in printed), f"{command}: not printed: {line}"


def run_block(language: str, text: str, folder: Path) -> str:
    name = re.match(r"# ([\w-]+\.(?:py|yml))\n", text)
    if name is not None:
        (folder / name[1]).write_text(text)
    elif language == "console":
        run_console(text, folder)
    elif language in ("python", "bash") and not re.search("^make ", text, re.MULTILINE):
        command = [sys.executable, "-W", "error", "-c"] if language == "python" else ["bash", "-ec"]
        result = run([*command, text], folder)
        assert result.returncode == 0, f"{text}\n{result.stdout}"
        return result.stdout
    return ""


def kind(page: Path) -> list[pytest.MarkDecorator]:
    """Most of what the longest pages do is also done by the sessions of test_sessions.py."""
    is_long = page.stem in ("comparing", "tuning", "your-environment")
    return [] if page == README else [pytest.mark.long if is_long else pytest.mark.slow]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=kind(page))
        for page in PAGES
        if {"python", "bash", "console"} & {language for language, _ in blocks(page)}
    ],
)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    printed = "".join(run_block(language, text, tmp_path) for language, text in blocks(page))
    if page.stem in ("README", "getting-started"):
        score = EXAMPLE.search(printed)
        assert score is not None, printed
        assert int(score[1]) > -250
    if page.stem == "command-line":
        assert (tmp_path / "videos" / "best_model-episode-0.mp4").exists()
    if page.stem == "tuning":
        runs = tmp_path / "runs" / "tune" / "custom_ddpg_Pendulum-v1"
        assert len(list(runs.glob("confirm/*/*/result.json"))) == 3 * 3
        assert (runs / "report.html").exists()
    if page.stem == "comparing":
        assert len(list((tmp_path / "runs" / "compare").glob("*/*/result.json"))) == 2 + 3 + 3
        assert (tmp_path / "runs" / "compare" / "report.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_are_of_a_known_kind(page: Path) -> None:
    kinds = {language for language, _ in blocks(page)}
    assert kinds <= {"python", "bash", "console", "yaml", "sh", "text"}
    for language, text in blocks(page):
        if language == "yaml":
            assert isinstance(yaml.safe_load(text), dict)


def test_long_commands_are_understood() -> None:
    commands = [
        shlex.split(line.replace("python -m sb3_ddpg_ext", "sb3-ddpg"))[1:]
        for page in PAGES
        for language, text in blocks(page)
        if language == "sh"
        for line in text.splitlines()
    ]
    assert len(commands) >= 8
    for command in commands:
        parse(command)


# --- The README ---


def test_readme_is_one_screen() -> None:
    assert len(README.read_text().splitlines()) <= 120
    (example,) = (text for language, text in blocks(README) if language == "python")
    assert len(example.strip().splitlines()) <= 8


def links(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)]*)\)", prose) if not target.startswith(("http", "#"))]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        assert (page.parent / target.split("#")[0]).exists(), target


def test_the_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == sb3_ddpg_ext.__version__


# --- Figures ---


def cells(text: str) -> list[list[str]]:
    """:return: The rows of all tables of a page"""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def speed_row(result: dict[str, Any]) -> str:
    seconds = {
        (name, measure): median(each[measure])
        for name, each in result["contestants"].items()
        for measure in ("learn", "update", "collect")
    }
    ours, sb3, sbx = "CustomDDPG", "SB3 DDPG", "SBX DDPG"
    floor = median(result["gemm"])
    row = [
        f"{result['env']}, {result['net_arch']}, {result['batch_size']}",
        str(result["threads"]),
        str(result["n_envs"]),
        f"{seconds[sb3, 'learn'] / seconds[ours, 'learn']:.1f}",
        f"{seconds[sbx, 'learn'] / seconds[ours, 'learn']:.1f}",
        f"{seconds[ours, 'update'] / floor:.1f} ({seconds[sb3, 'update'] / floor:.1f})",
        f"{seconds[ours, 'collect'] / seconds[sb3, 'collect']:.2f}",
    ]
    return f"| {' | '.join(row)} |"


def test_speed_is_what_was_measured() -> None:
    record = json.loads((DOCS / "benchmark/benchmark.json").read_text())
    rows = [speed_row(result) for result in record["results"]]
    assert len(rows) == 12
    page = (DOCS / "speed.md").read_text()
    assert "\n".join(rows) in page
    times = [float(row.split(" | ")[3]) for row in rows]
    assert f"{min(times)} to {max(times)} times" in page
    assert f"{min(times)} to {max(times)} times" in README.read_text()


def test_what_a_second_thread_gains_is_what_was_measured() -> None:
    results = json.loads((DOCS / "benchmark/benchmark.json").read_text())["results"]
    seconds: dict[Any, dict[tuple[int, int], float]] = {}
    for result in results:
        case = result["env"], tuple(result["net_arch"]), result["batch_size"]
        learn = median(result["contestants"]["CustomDDPG"]["learn"])
        seconds.setdefault(case, {})[result["threads"], result["n_envs"]] = learn
    for (env, layers, batch), by in seconds.items():
        with contextlib.closing(gym.make(env)) as made:
            sizes = [*made.observation_space.shape, *layers, *made.action_space.shape]  # type: ignore[misc]
        weights = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
        gains = " | ".join(f"{by[1, n_envs] / by[2, n_envs]:.2f}" for n_envs in (1, 8))
        row = f"| {env}, {list(layers)}, {batch} | {batch * weights / 1e6:.1f} million | {gains} |"
        assert row in (DOCS / "speed.md").read_text()


def test_the_tests_of_the_features_exist() -> None:
    named = re.findall(r"`(test_\w+)(?:::(test_\w+))?`", (DOCS / "features.md").read_text().partition("|---")[2])
    assert len(named) > 30
    for module, function in named:
        assert f"def {function}" in (ROOT / "tests" / f"{module}.py").read_text()


def times_to_threshold(env: str, threshold: int, *, report: str = "compare", n_seeds: int = 5) -> dict[str, str]:
    """:return: For each algorithm the CPU seconds to the threshold, as the report has them"""
    row = rf"^\| {env} \| (.*?) \| {threshold} \| \d+ of {n_seeds} \| .*? \| (.*?) \|$"
    return dict(re.findall(row, (DOCS / report / "report.md").read_text(), re.MULTILINE))


def summary_section(report: str) -> str:
    return (DOCS / report / "report.md").read_text().split("\n## ")[1]


def prose(page: Path) -> str:
    """:return: The text of a page, without its line breaks"""
    return " ".join(page.read_text().split())


def comments(settings: str) -> str:
    """:return: A file of settings in which a comment of several lines is one line"""
    return (ROOT / f"hyperparams/{settings}.yml").read_text().replace("\n# ", " ")


def summary_rows(report: str) -> list[list[str]]:
    """:return: The rows of a report's summary, with labels as on the command line"""
    return [[cell.replace("\\_", "_") for cell in row] for row in cells(summary_section(report))]


def summary(env: str) -> list[tuple[str, ...]]:
    """:return: The rows of the report's first table: algorithm, final score, areas, P, speed"""
    return re.findall(rf"^\| {env} {'[|] (.*?) ' * 6}[|]$", summary_section("compare"), re.MULTILINE)


@pytest.mark.parametrize(
    ("env", "threshold", "number"),
    [
        ("Pendulum-v1", -200, 8),
        ("MountainCarContinuous-v0", 90, 6),
        ("HalfCheetah-v5", None, 7),
        ("all environments", None, 6),
    ],
)
def test_results_are_those_of_the_report(env: str, threshold: int | None, number: int) -> None:
    page = (DOCS / "results.md").read_text()
    seconds = {} if threshold is None else times_to_threshold(env, threshold)
    rows = summary(env)
    assert len(rows) == number
    assert len(seconds) == (0 if threshold is None else number)
    for label, final, area, area_over_seconds, better, speed in rows:
        time = seconds.get(label, area_over_seconds)
        assert f"| {label} | {final} | {area} | {time} | {better} | {speed} |\n" in page


def runs_of(report: str, *labels: str, env: str | None = None) -> list[dict[str, str]]:
    with (DOCS / report / "runs.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["label"] in labels and env in (None, row["env"])]


def cpu_seconds(report: str, *labels: str, env: str | None = "HalfCheetah-v5") -> str:
    """:return: The range of all runs"""
    seconds = [float(row["cpu_seconds"]) for row in runs_of(report, *labels, env=env)]
    return f"{min(seconds):,.0f} to {max(seconds):,.0f} CPU seconds"


@pytest.mark.parametrize(
    ("report", "number"),
    [
        ("small_networks", 8),
        ("equal_seconds", 20),
        ("lunar_lander", 6),
        ("few_steps", 28),
        ("ant", 5),
        ("ant_seconds", 3),
    ],
)
def test_summaries_are_those_of_their_reports(report: str, number: int) -> None:
    header, *rows = [line for line in summary_section(report).splitlines() if line.startswith("| ")]
    assert len(rows) == number
    for row in (header, *rows):
        assert row in (DOCS / "results.md").read_text()


def test_seconds_and_worst_run_are_those_of_the_reports() -> None:
    page = prose(DOCS / "results.md")
    assert f"took {cpu_seconds('small_networks', 'small2')}" in page
    assert f"took {cpu_seconds('compare', 'sac', 'td3', 'tqc')}" in page
    longer = cpu_seconds("few_steps", "few_steps", env=None)
    shorter, of_sac, of_td3, of_tqc = (
        cpu_seconds("few_steps", label, env=None).removesuffix(" CPU seconds")
        for label in ("plain", "sbx_sac", "sbx_td3", "sbx_tqc")
    )
    said = f"one of `plain` takes {shorter}, one of `sbx_sac` {of_sac}, one of `sbx_td3` {of_td3}, and one of `sbx_tqc`"
    assert f"A run takes {longer}, where {said} {of_tqc}." in page
    walker = [float(row["final_score"]) for row in runs_of("few_steps", RL_ZOOS, env="Walker2d-v5")]
    assert f"its five runs end between {min(walker):.0f} and {max(walker):.0f}." in page
    worst = min(float(row["final_score"]) for row in runs_of("few_steps", "few_steps", env="Hopper-v5"))
    assert f"On Hopper-v5, one run of ten ends at {worst:.0f}." in page


def at_equal_seconds(report: str) -> tuple[dict[str, str], list[dict[str, int]]]:
    """:return: The CPU seconds of each environment, and the steps that each algorithm had done by then"""
    said = re.findall(
        r"^- (\S+): algorithms are compared after (\S+) CPU seconds, .* in the median: (.*)\.$",
        (DOCS / report / "report.md").read_text(),
        re.MULTILINE,
    )
    steps = [
        {
            label: int(n.replace(",", ""))
            for label, n in re.findall(r"(\S+) ([\d,]*\d)(?:, |$)", listed.replace("\\", ""))
        }
        for *_, listed in said
    ]
    return {env: of_env for env, of_env, _ in said}, steps


def test_equal_seconds_are_those_of_the_report() -> None:
    page = prose(DOCS / "results.md")
    seconds, steps = at_equal_seconds("equal_seconds")
    assert list(seconds) == ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]
    at = ", ".join(f"{of_env} on {env}" for env, of_env in seconds.items())
    assert f"All are scored at the CPU second at which the fastest run ended: {at}." in page
    others = [of_env[f"sbx_{algo}"] for of_env in steps for algo in ("sac", "td3", "tqc")]
    ours, theirs = (three(f"{of_env[label]:,}" for of_env in steps) for label in ("small2", "small_sac"))
    assert f"In the median it has done {ours} steps by then, and they {min(others):,} to {max(others):,}, of" in page
    assert f"`small_sac` has done {theirs} steps" in page
    rows = summary_rows("equal_seconds")
    (better,) = (row[4] for row in rows if row[:2] == ["all environments", "small_sac"])
    assert f"and better in {better} of all pairs of runs." in page
    text = prose(README)
    ours, theirs = (
        three(row[2] for row in rows if row[1] == label and row[0] != "all environments")
        for label in ("small2", "small_sac")
    )
    assert (
        f"after {three(seconds.values())} CPU seconds, they [have](docs/results.md#at-equal-seconds) {ours}; SAC"
        in text
    )
    assert f"with networks as small, has {theirs}." in text


def three(items: Iterable[str]) -> str:
    first, second, third = items
    return f"{first}, {second} and {third}"


def test_ten_seeds_are_those_of_their_report() -> None:
    scores = {env: (final, area) for env, _, final, area, *_ in summary_rows("ten_seeds")}
    for env, threshold in (("Pendulum-v1", -200), ("MountainCarContinuous-v0", 90), ("HalfCheetah-v5", 4800)):
        (seconds,) = times_to_threshold(env, threshold, report="ten_seeds", n_seeds=10).values()
        final, area = scores[env]
        assert f"| {env} | {final} | {area} | {seconds} |\n" in (DOCS / "results.md").read_text()
    assert (DOCS / "ten_seeds/report.md").read_text().count("| 10 of 10 |") == 2  # all but HalfCheetah's
    pendulum = [float(row["final_score"]) for row in runs_of("ten_seeds", "custom_ddpg", env="Pendulum-v1")]
    (below,) = (score for score in pendulum if score < -200)
    page = prose(DOCS / "results.md")
    assert f"one run of ten ends below the threshold of -200, at {below:.1f}." in page
    *first, last = (f"{score:.1f}" for score in pendulum[:5])
    assert f"they are {', '.join(first)} and {last}, the first five of [ten](#ten-seeds)." in page
    halfcheetah = (
        [float(row["final_score"]) for row in runs_of(report, "custom_ddpg", env="HalfCheetah-v5")][:5]
        for report in ("compare", "ten_seeds")
    )
    assert len({tuple(scores) for scores in halfcheetah}) == 1


@pytest.mark.parametrize(
    ("report", "heading", "number"),
    [("ablation", "## What each option does", 17), ("few_steps_parts", "### What each part does", 5)],
)
def test_options_are_those_of_their_report(report: str, heading: str, number: int) -> None:
    rows = cells(summary_section(report))[1:]
    scored = {(env, label): (final, area) for env, label, final, area, *_ in rows}
    section = (DOCS / "results.md").read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    page = {label: row for label, _, *row in cells(section)}
    labels = {label for _, label in scored}
    assert len(labels) == number
    for label in labels:
        finals = [scored[env, label][0] for env in ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")]
        assert page[label] == [*scored["all environments", label], *finals]


def test_simba_in_words() -> None:
    page = prose(DOCS / "results.md")
    rows = summary_rows("ablation")
    better, speed = next((row[5], row[6]) for row in rows if row[:2] == ["all environments", "simba"])
    assert f"a run is better than one of `plain` in {better} of all pairs only" in page
    assert f"A step takes some {1 / float(speed.split()[0]):.0f} times as long" in page
    low_high = {
        (env, label): [float(n.replace(",", "")) for n in re.findall(r"[-\d.,]*\d", score)[1:]]
        for env, label, score, *_ in rows
    }
    for env, label, apart in (
        ("all environments", "simba", False),
        ("HalfCheetah-v5", "simba", True),
        ("all environments", "simba_slow", True),
    ):
        assert (low_high[env, label][1] < low_high[env, "plain"][0]) == apart


def test_the_sizes_of_critics_in_words() -> None:
    weights = []
    for policy, policy_kwargs in (
        ("SimbaPolicy", {"net_arch": {"pi": [64], "qf": [64, 64]}}),
        ("MlpPolicy", {"net_arch": [256, 256], "critic_layer_norm": True}),
        ("SimbaPolicy", {}),
    ):
        model = sb3_ddpg_ext.CustomDDPG(policy, "HalfCheetah-v5", policy_kwargs=policy_kwargs, buffer_size=1)
        weights.append(sum(p.numel() for p in model.critic.parameters()))
    ours, theirs, paper = weights
    page = prose(DOCS / "results.md")
    assert (
        f"has {ours:,} weights on HalfCheetah-v5; that of `few_steps` has {theirs:,}, and the paper's {paper:,}."
        in page
    )


def test_the_parts_of_few_steps_in_words() -> None:
    page = prose(DOCS / "results.md")
    rows = summary_rows("few_steps_parts")
    final = {label: score for env, label, score, *_ in rows if env == "all environments"}
    assert (
        f"without them, the final score on all three tasks is {final['one_step']}, and with them {final['few_steps']}."
        in page
    )
    assert f"`neither` has {final['neither']}, and `plain`" in page
    assert f"without it they have {final['no_layer_norm']}." in page
    assert f"ends as high, {final['two_critics']}," in page
    (speed,) = (row[-1] for row in rows if row[:2] == ["all environments", "two_critics"])
    assert f"a step takes {100 / float(speed.split()[0]) - 100:.0f}% longer" in page
    walker = {
        label: [float(row["final_score"]) for row in runs_of("few_steps_parts", label, env="Walker2d-v5")]
        for label in ("one_step", "neither", "few_steps")
    }
    assert max(walker["one_step"] + walker["neither"]) < min(walker["few_steps"])


def scores(
    report: str, seeds: dict[str, range], directory: Path, *, of: str = "all environments"
) -> dict[str, tuple[str, str]]:
    """:return: By label, the final score and the area over steps of runs with these seeds"""
    for label, numbers in seeds.items():
        for run in (DOCS / report / label).iterdir():
            if int(run.name.rpartition("_")[2]) in numbers:
                shutil.copytree(run, directory / label / run.name)
    table = summary_table(analyse(directory, baseline=next(iter(seeds))))
    rows = [
        [cell.replace("\N{NO-BREAK SPACE}", " ").replace("[", r"\[").replace("]", r"\]") for cell in row]
        for row in table.rows
    ]
    return {label: (final, area) for env, label, final, area, *_ in rows if env == of}


def test_fresh_seeds_have_the_scores_of_the_page(tmp_path: Path) -> None:
    page = prose(DOCS / "results.md")
    fresh = {label: range(5, 10) for label in ("plain", "n_steps", "few_steps")}
    few = scores("few_steps", fresh, tmp_path / "few")
    assert f"is again higher, {few['n_steps'][1]} to {few['plain'][1]}" in page
    assert f"the final scores, {few['n_steps'][0]} and {few['plain'][0]}," in page
    assert (
        f"Five fresh seeds (5 to 9) have a final score of {few['few_steps'][0]} on all three tasks together, and those "
        f"of `plain` have {few['plain'][0]}." in page
    )
    preset = comments("few_steps")
    assert f"{few['few_steps'][0]} with five fresh seeds (5 to 9); {few['plain'][0]} with".replace("\\", "") in preset
    many = scores("small_networks", {"small": range(5), "small2": range(5, 10)}, tmp_path / "many")
    assert f"Fresh seeds (5 to 9) of two critics have {many['small2'][0]}" in page
    settings = comments("custom_ddpg")
    assert f"IQM and 95% interval: {many['small2'][0]} with five fresh seeds".replace("\\", "") in settings
    cheetahs = [run for run in read_runs(tmp_path / "many") if (run.label, run.env) == ("small2", "HalfCheetah-v5")]
    early = [run.evaluations.means[0] for run in cheetahs if run.evaluations is not None]
    assert f"(5 to 9) had {iqm([np.array(early)]):,.0f} there after 50,000 steps" in page


def test_the_lander_is_that_of_its_report(tmp_path: Path) -> None:
    page = prose(DOCS / "results.md")
    seconds, (steps,) = at_equal_seconds("lunar_lander")
    assert f"All are scored after {seconds['LunarLanderContinuous-v3']} CPU seconds" in page
    others = [steps[f"sbx_{algo}"] for algo in ("sac", "td3", "tqc")]
    assert (
        f"`custom_ddpg` has done {steps['custom_ddpg']:,} steps by then, `small_sac` {steps['small_sac']:,}, and"
        in page
    )
    assert f"and the others {min(others):,} to {max(others):,}, of" in page
    worst = min(float(row["final_score"]) for row in runs_of("lunar_lander", "custom_ddpg"))
    assert f"The worst of its eleven runs ends at {worst:.0f}." in page
    gaussian = sorted(float(row["final_score"]) for row in runs_of("lunar_lander", "gaussian"))
    listed = ", ".join(f"{score:.0f}" for score in gaussian[:-1])
    assert f"its five runs end at {listed} and {gaussian[-1]:.0f}, the first" in page
    fresh = scores("lunar_lander", {"custom_ddpg": range(6, 11)}, tmp_path, of="LunarLanderContinuous-v3")
    assert f"Five seeds that they had not had before (6 to 10) end at {fresh['custom_ddpg'][0]}" in page
    settings = comments("custom_ddpg")
    assert f"{fresh['custom_ddpg'][0]} with five seeds (6 to 10)".replace("\\", "") in settings


def test_ant_is_that_of_its_reports() -> None:
    page = prose(DOCS / "results.md")
    ended, then = ({label: score for _, label, score, *_ in summary_rows(report)} for report in ("ant", "ant_seconds"))
    assert f"`plain` ends at {ended['plain']} and `rl_zoo` at {ended['rl_zoo']}, where random actions have -58." in page
    assert f"the same small networks end at {ended['small2']}." in page
    assert f"`few_steps`, with one critic as well, ends at {ended['few_steps']}," in page
    assert f"SAC is ahead of all of them**, with {ended['sbx_sac']}." in page
    seconds, (steps,) = at_equal_seconds("ant_seconds")
    assert f"all are scored after {seconds['Ant-v5']} CPU seconds" in page
    others = f"`sbx_sac` {steps['sbx_sac']:,}, and `rl_zoo` {steps['rl_zoo']:,}."
    assert f"`small2` has done {steps['small2']:,} steps by then, {others}" in page
    assert f"which took {cpu_seconds('ant_seconds', 'small2', env=None)}" in page
    ends = [float(row["final_score"]) for row in runs_of("ant_seconds", "small2")]
    assert f"the five runs end between {min(ends):,.0f} and {max(ends):,.0f}." in page
    settings = comments("custom_ddpg")
    said = f"{then['small2']}; SAC with the zoo's settings {then['sbx_sac']}, and those for DDPG {then['rl_zoo']} ("
    assert said.replace("\\", "") in settings


def test_the_readme_has_results_of_the_report() -> None:
    pendulum, car = times_to_threshold("Pendulum-v1", -200), times_to_threshold("MountainCarContinuous-v0", 90)
    final = {label: score for label, score, *_ in summary("HalfCheetah-v5")}
    names = {"CustomDDPG": "custom\\_ddpg", "SB3 DDPG": "ddpg", "TD3": "td3", "SAC": "sac", "TQC": "tqc"}
    for name, label in names.items():
        assert [name, pendulum[label], car[label], final[label]] in cells(README.read_text())
    text = prose(README)
    assert f"took {cpu_seconds('compare', 'custom_ddpg')} for the 50,000 steps" in text
    assert f"the others {cpu_seconds('compare', 'ddpg', 'td3', 'sac', 'tqc').removesuffix(' CPU seconds')}." in text
    assert f"In {cpu_seconds('small_networks', 'small2').removesuffix(' CPU seconds')}, they do" in text
    million = {env: score for env, label, score, *_ in cells(summary_section("small_networks")) if label == "small2"}
    assert f"end at {million['HalfCheetah-v5']}; on Hopper-v5 and Walker2d-v5 at {million['Hopper-v5']} and" in text
    assert f"and {million['Walker2d-v5']}, ten seeds each" in text
    few_steps = summary_rows("few_steps")
    rows = {label: score for env, label, score, *_ in few_steps if env == "all environments"}
    assert f"#few-steps) {rows['few_steps']}, where" in text
    assert f"TQC has {rows['sbx_tqc']}, SAC {rows['sbx_sac']}, TD3 {rows['sbx_td3']} and DDPG {rows[RL_ZOOS]}" in text
    assert f"one critic with small networks has {rows['plain']}." in text
    page = prose(DOCS / "results.md")
    theirs = three(rows[label] for label in ("sbx_sac", "sbx_td3", RL_ZOOS))
    assert f"together they have {theirs}, and `few_steps` {rows['few_steps']}." in page
    assert f"**TQC is the closest**, with {rows['sbx_tqc']}." in page
    areas = {label: area for env, label, _, area, *_ in few_steps if env == "all environments"}
    assert f"area over steps, {areas['sbx_tqc']} to {areas['few_steps']}, do not." in page
    assert float(areas["sbx_tqc"].split()[-1].rstrip("\\]")) < float(areas["few_steps"].split("[")[1].split(",")[0])
    cheetah = {label: score for env, label, score, *_ in few_steps if env == "HalfCheetah-v5"}
    assert max(cheetah, key=lambda label: float(cheetah[label].split()[0].replace(",", ""))) == "sbx_td3"
    assert f"TD3 is the highest there, with {cheetah['sbx_td3']}." in page


def noise_scores(section: str) -> dict[tuple[str, str], str]:
    report = (DOCS / "noise/report.md").read_text()
    (part,) = (part for part in report.split("\n## ") if part.startswith(f"{section}\n"))
    label = r"custom\\_ddpg:hyperparams=agent\.yml,action\\_noise="
    rows = re.findall(rf"^\| ([\w -]+?) \| {label}(.*?) \| \d+ \| (.*?) \|", part, re.MULTILINE)
    return {(env, noise.replace("\\", "")): score for env, noise, score in rows}


def test_noise_is_what_was_compared() -> None:
    final, area = noise_scores("Final score"), noise_scores("Area under the curve over steps")
    noises = list(dict.fromkeys(noise for _, noise in final))
    assert len(noises) == 13
    page = cells((DOCS / "exploration.md").read_text())
    for noise in noises:
        row = [
            f"`{noise.replace('null', 'None')}`",
            final["all environments", noise],
            area["all environments", noise],
            area["Pendulum-v1", noise],
            final["MountainCarContinuous-v0", noise],
            final["HalfCheetah-v5", noise],
        ]
        assert row in page


def test_calls_of_noise_cost_what_was_measured() -> None:
    record = json.loads((DOCS / "noise/benchmark.json").read_text())
    one, many = ({name: median(times) for name, times in record["noise"][n].items()} for n in ("1", "64"))
    ours = [name for name in one if not name.startswith("SB3")]
    baseline = "SB3 NormalActionNoise"
    assert max(one[name] for name in ours) < 0.51 * one[baseline]
    ratios = [many[baseline] / many[name] for name in ours]
    assert (round(min(ratios)), round(max(ratios), -1)) == (34, 110)


def test_the_search_space_is_that_of_the_code() -> None:
    page = cells((DOCS / "tuning.md").read_text())
    rows = [row for row in TABLE if row.algos is None or "custom_ddpg" in row.algos]
    rows = [row for row in rows if row.name not in ("policy_delay", "ent_coef")]  # DDPG has neither
    for row in rows:
        values: Any = row.distribution
        if hasattr(values, "choices"):
            shown = ", ".join(str(choice).replace("[", "\\[").replace("]", "\\]") for choice in values.choices)
        else:
            shown = f"{values.low:g} to {values.high:g}, logarithmic"
        assert [f"`{row.name}`", shown] in page


def test_the_name_of_a_folder() -> None:
    (variant,) = parse_variants("custom_ddpg:fused=false")
    assert f"`{variant.label}` becomes `{variant.folder}`" in (DOCS / "comparing.md").read_text()
    assert (DOCS / "compare" / variant.folder).is_dir()


@pytest.mark.parametrize("script", ["draw_noise.py", "draw_results.py"])
def test_pictures_are_drawn(script: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    subprocess.run([sys.executable, ROOT / "scripts" / script, picture], check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


# --- The site ---


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason=f"the site is built with {package}: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", f"{folder}/doctrees"]
    result = run([*command, str(DOCS), f"{folder}/html"], ROOT)
    assert result.returncode == 0, result.stdout
    return folder / "html"


class Page(HTMLParser):
    """What a page links to, and what can be linked to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors |= {name for name in (attributes.get("id"), attributes.get("name")) if name}
        self.targets += [attributes.get(name) or "" for name in ("href", "src") if name in attributes]


def test_no_link_within_the_site_is_broken(site: Path) -> None:
    pages = {file.resolve(): Page(file) for file in site.rglob("*.html")}
    assert len(pages) > 20
    broken = []
    for file, page in pages.items():
        for target in page.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            to = (file.parent / unquote(url.path)).resolve() if url.path else file
            anchor = unquote(url.fragment)
            if not to.exists() or (anchor and to in pages and anchor not in pages[to].anchors):
                broken.append(f"{file.relative_to(site)}: {target}")
    assert broken == []


def test_the_site_in_a_browser(browser: WebDriver, site: Path) -> None:
    reports = [f"{report.parent.name}/report" for report in sorted(DOCS.glob("*/report.md"))]
    assert len(reports) == 11
    pages = [*(page.stem for page in sorted(DOCS.glob("*.md"))), *reports]
    n_images = 0
    for page in pages:
        browser.get((site / f"{page}.html").as_uri())
        assert browser.find_element(By.TAG_NAME, "h1").is_displayed(), page
        assert "sb3_ddpg_ext" in browser.title
        for image in browser.find_elements(By.CSS_SELECTOR, "article img"):
            n_images += 1
            assert int(image.get_property("naturalWidth")) > 600, page  # type: ignore[arg-type]
    assert n_images > 15
    # Nothing makes a page of a phone's width wider than the phone
    browser.get((site / "results.html").as_uri())
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
