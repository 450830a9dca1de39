"""What ``--algos`` means: algorithms with settings, written ``ddpg,custom_ddpg:gamma=0.9,batch_size=128``."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sb3_ddpg_ext.errors import SettingsError, unknown
from sb3_ddpg_ext.settings import ALGORITHMS, is_own

_LONGEST_FOLDER = 40  # characters of a label in the name of its folder


@dataclass(frozen=True)
class Variant:
    """
    An algorithm with the settings it is to be compared with.

    :param label: The name that the user gave it, otherwise what the user wrote
    :param algo: Name of the algorithm
    :param hyperparams: File of settings, or the name of one of this package; None for the algorithm's own
    :param params: Overrides, ``name=value`` each
    """

    label: str
    algo: str
    hyperparams: Path | None = None
    params: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """
        Name of the folder of its runs. The label itself if that is a good name on any system and in any shell;
        otherwise its letters and digits, and a few digits that are different for each label.
        """
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.label)
        if plain == self.label and len(plain) <= _LONGEST_FOLDER:
            return plain
        digest = hashlib.sha256(self.label.encode()).hexdigest()[:6]
        return f"{plain[:_LONGEST_FOLDER].strip('-.')}-{digest}"


def parse_variants(text: str) -> tuple[Variant, ...]:
    """
    Read a list such as ``ddpg,custom_ddpg:gamma=0.9,batch_size=128,sac``. A piece ``name=value`` belongs to the
    algorithm before it; commas inside brackets separate nothing. ``short=ddpg`` gives a variant a name, and
    ``module:Class`` is an algorithm as well.

    :param text: What the user wrote
    :return: The variants
    :raises SettingsError: If a setting has no algorithm before it, or if a variant cannot be called that
    """
    variants: list[list[str]] = []
    for piece in (piece.removesuffix(",").strip() for piece in pieces(text, ",")):
        if _NAMED.fullmatch(piece) or "=" not in piece.split(":")[0]:
            variants.append([piece])
            continue
        _check_name(piece)
        if variants and _split(variants[-1][0])[2]:
            variants[-1].append(piece)
        else:
            algo = variants[-1][0] if variants else "custom_ddpg"
            raise SettingsError(f"--algos: {piece!r} belongs to no algorithm; expected for example {algo}:{piece}")
    return tuple(map(_variant, variants))


# `short=ddpg`, but not `hyperparams=ddpg`, which is a setting
_ALGORITHM = rf"(?:{'|'.join(ALGORITHMS)}|[A-Za-z_][\w.]*:[A-Za-z_]\w*(?![\w ]*=))"
# Names are folders beside the files of the report
_NAME = r"(?!\.)[\w.-]+(?<!\.html)(?<!\.md)(?<!\.csv)(?<!\.png)"
_NAMED = re.compile(rf"(?!hyperparams=)({_NAME})=({_ALGORITHM}(?::.*)?)", re.DOTALL)


def _check_name(setting: str) -> None:
    """Say what is wrong with a setting that was meant to be ``name=algorithm``."""
    name, _, value = setting.partition("=")
    algo = value.partition(":")[0].strip()
    if name.strip() == "hyperparams":
        return
    if algo in ALGORITHMS:
        raise SettingsError(
            f"--algos: {algo} cannot be called {name.strip()!r}; expected letters, digits, '.', '_' and '-', without a "
            "'.' at the beginning and without .html, .md, .csv or .png at the end"
        )
    if get_close_matches(algo, ALGORITHMS, n=1, cutoff=0.8):
        raise SettingsError(f"--algos: {setting}: {unknown('algorithm', algo, ALGORITHMS)}")


def _split(piece: str) -> tuple[str, str, str]:
    """:return: The algorithm, the colon after it, and the first setting; the last two are empty if there is none"""
    first, colon, rest = piece.partition(":")
    own, second_colon, setting = rest.partition(":")
    is_class = first.strip() not in ALGORITHMS and is_own(f"{first.strip()}:{own.strip()}")
    return (f"{first.strip()}:{own.strip()}", second_colon, setting) if is_class else (first.strip(), colon, rest)


def _variant(written: Sequence[str]) -> Variant:
    named = _NAMED.fullmatch(written[0])
    algo, colon, first = _split(named[2] if named else written[0])
    overrides = [first, *written[1:]] if colon else []
    overrides = ["=".join(map(str.strip, override.split("=", 1))) for override in overrides]
    names = Counter(override.partition("=")[0] for override in overrides)
    if repeated := [name for name, times in names.items() if times > 1]:
        raise SettingsError(f"--algos: {','.join(written)} has {' and '.join(repeated)} more than once")
    files = [o.removeprefix("hyperparams=") for o in overrides if o.startswith("hyperparams=")]
    params = tuple(o for o in overrides if not o.startswith("hyperparams="))
    label = named[1] if named else f"{algo}{colon}{','.join(overrides)}"
    return Variant(label, algo, Path(files[-1]) if files else None, params)


def pieces(text: str, separators: str) -> list[str]:
    """
    Cut a text after separators, but not inside brackets.

    :param text: Such as ``ddpg,td3:train_freq=[1, episode]``
    :param separators: One character each
    :return: The pieces, which joined are the text; all but the last end with a separator
    """
    parts, depth = [""], 0
    for character in text:
        parts[-1] += character
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in separators:
            parts.append("")
    return parts
