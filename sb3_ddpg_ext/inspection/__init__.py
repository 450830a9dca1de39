"""One run directory -> what happened in it, on one page, and what looks wrong, in words. It does not import torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_ddpg_ext.errors import SettingsError

if TYPE_CHECKING:
    from sb3_ddpg_ext.inspection.findings import Finding

__all__ = ["Inspection", "inspect_run"]


@dataclass(frozen=True)
class Inspection:
    """
    What a run looks like.

    :param page: Path of ``inspection.html``; the picture in it is also in ``inspection.png`` beside it
    :param findings: What looks wrong; empty if nothing does
    :param missing: What the run directory does not hold, in words
    """

    page: Path
    findings: "tuple[Finding, ...]"
    missing: tuple[str, ...]


def inspect_run(directory: str | Path) -> Inspection:
    """
    Write ``inspection.html`` and ``inspection.png`` into a run directory, as ``sb3-ddpg inspect``.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from sb3_ddpg_ext import train
    >>> record = train("Pendulum-v1", steps=300, eval_freq=100, eval_episodes=1, log_dir=Path(mkdtemp()), quiet=True)
    >>> inspection = inspect_run(record.directory)
    >>> inspection.page.name, inspection.findings[0].title
    ('inspection.html', 'Learning never began')

    :param directory: A run directory: of this package, of RL Zoo, or any with files of SB3's ``Monitor``, of
        ``EvalCallback`` or of SB3's CSV logger. What is not there is left out
    :return: The page, and what looks wrong
    :raises SettingsError: If the directory holds none of these, if one of them cannot be read, or if matplotlib, scipy
        or jinja2 is not installed
    """
    try:
        from sb3_ddpg_ext.inspection import findings, page, reading
    except ModuleNotFoundError as error:
        raise SettingsError(f"{error.name} is not installed: pip install 'sb3_ddpg_ext[compare]'") from error
    run = reading.read(Path(directory))
    found = findings.find(run)
    return Inspection(page.write(run, found, Path(directory)), found, run.missing)
