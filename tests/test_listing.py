"""``sb3-ddpg list``."""

from pathlib import Path

import pytest
from processes import ENVIRONMENT, forked

from sb3_ddpg_ext.noise import NOISES
from sb3_ddpg_ext.settings import ALGORITHMS, hyperparams_file, read_yaml


def listed(folder: Path, *arguments: str, status: int = 0) -> list[str]:
    result = forked(["list", *arguments], folder, {**ENVIRONMENT, "COLUMNS": "80"}, timeout=60)
    assert result.returncode == status, result.stderr
    return [line.rstrip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]


def test_algorithms(tmp_path: Path) -> None:
    lines = listed(tmp_path, "algorithms")
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:]}
    assert rows.keys() == {*ALGORITHMS, "module:Class"}
    assert rows["tqc"][0] == "sb3_contrib"
    assert rows["sbx_ddpg"][0] == "sbx-rl"
    assert all(len(row) == 2 for name, row in rows.items() if name in ALGORITHMS)


def test_environments(tmp_path: Path) -> None:
    (tmp_path / "hyperparams").mkdir()
    (tmp_path / "hyperparams/custom_ddpg.yml").write_text("Mine-v0: {n_timesteps: 10}\n")
    lines = listed(tmp_path, "environments")
    assert lines[0] == "Environments with settings of yours, in hyperparams/"
    assert lines[3].split() == ["Mine-v0", "custom_ddpg"]
    names = {name for algo in ("custom_ddpg", "sac") for name in read_yaml(hyperparams_file(algo))} - {"default"}
    assert names <= {line.split()[0] for line in lines}
    assert "any other" in lines[-1]
    (tmp_path / "hyperparams/custom_ddpg.yml").write_text("Mine-v0: [")
    (line,) = listed(tmp_path, "environments", status=2)
    assert line.startswith("error: custom_ddpg.yml: not a YAML file")


def test_noises(tmp_path: Path) -> None:
    lines = listed(tmp_path, "noises")
    for name in NOISES:
        assert any(line.split()[0] == name and len(line.split()) > 3 for line in lines)
    assert "  pink        Pink noise, between white noise and a random walk." in lines


@pytest.mark.parametrize("arguments", [[], ["all"]])
def test_all_fits_into_80_columns(arguments: list[str], tmp_path: Path) -> None:
    lines = listed(tmp_path, *arguments)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line or "`" in line for line in lines)
    starts = ("Algorithms", "Environments", "Noises of custom_ddpg", "Noises of Stable-Baselines3")
    assert [line.startswith(starts) for line in lines].count(True) == 4
