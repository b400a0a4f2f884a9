"""How the elements of a web page are written in Markdown: lists in columns of four, rules as stars, no strikethrough."""

from __future__ import annotations

import re
from typing import Any

from markdownify import MarkdownConverter

_AT_START = re.compile(r"(?m)^(#{1,6} |>|[-+] )")
_NUMBERED = re.compile(r"(?m)^(\d+)(?=\. )")


class Writer(MarkdownConverter):
    """CommonMark as most converters of JavaScript write it, so that a page says the same whichever of them read it."""

    def convert_li(self, el: Any, text: str, parent_tags: set[str]) -> str:
        content = text.strip()
        if not content:
            return "\n"
        ordered = el.parent is not None and el.parent.name == "ol"
        mark = "-   "
        if ordered:
            start = str(el.parent.get("start") or "1")
            mark = f"{(int(start) if start.isdecimal() else 1) + len(el.find_previous_siblings('li'))}.  "
        return mark + re.sub(r"\n(?=[^\n])", "\n    ", content) + "\n"

    def convert_hr(self, el: Any, text: str, parent_tags: set[str]) -> str:
        return "\n\n* * *\n\n"

    def convert_del(self, el: Any, text: str, parent_tags: set[str]) -> str:
        return text

    convert_s = convert_del

    def escape(self, text: str, parent_tags: set[str]) -> str:
        text = re.sub(r"([\\*_\[\]`])", r"\\\1", text or "")
        return _NUMBERED.sub(r"\1\\", _AT_START.sub(r"\\\1", text))


def markdown_of(element: Any) -> str:
    """The Markdown of an element of a page."""
    return str(Writer(heading_style="ATX").convert_soup(element))
