"""Turns formulas into MathML when the documentation is built: every browser shows it, and nothing is fetched."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Returns a page's HTML with MathML in place of LaTeX."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match) -> str:
    display = "block" if match[2] == "[" else "inline"
    return f'<{match[1]} class="formula">{convert(html.unescape(match[3]), display=display)}</{match[1]}>'
