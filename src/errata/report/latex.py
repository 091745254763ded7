"""Tables in LaTeX, for the booktabs package."""

from collections.abc import Sequence

__all__ = ["latex_table"]

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "<": "$<$"}
_SPECIAL |= {">": "$>$", "→": r"$\to$", "−": "$-$", "±": r"$\pm$", "φ": r"$\varphi$"}
_SPECIAL |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells say in LaTeX what they say in plain text.

    Args:
        head: of each column.
        rows: the cells of each row.
    """
    lines = [" & ".join(map(_latex, line)) + " \\\\\n" for line in (head, *rows)]
    top = f"\\begin{{tabular}}{{{'l' * len(head)}}}\n\\toprule\n{lines[0]}\\midrule\n"
    return f"{top}{''.join(lines[1:])}\\bottomrule\n\\end{{tabular}}\n"


def _latex(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in text)
