"""A table of the report in LaTeX, to be put into a paper that has the package booktabs."""

import re

from sb3_ddpg_ext.report.tables import Table

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u00a0": "~"}


def latex(table: Table) -> str:
    """
    :param table: The table
    :return: A ``tabular``, with the caption as a comment
    """
    columns = "l" * table.heads + "r" * (len(table.header) - table.heads)
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in (table.header, *table.rows)]
    return "\n".join(
        [
            f"% {' '.join(table.caption.split())}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return re.sub(r"[\\~^&%$#_{}\u00a0]", lambda found: _SPECIAL.get(found[0], rf"\{found[0]}"), text)
