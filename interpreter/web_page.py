"""Web pages as Markdown: what a reader of the page would read, and what the page says about itself.

The libraries for it are an optional part (`web`), loaded with the first page. lxml, because the parser of the standard
library takes quadratic time for a page that is made to be slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_CHARACTERS = 2_000_000
_NOT_READ = (
    "script", "style", "noscript", "template", "svg", "iframe", "form", "button", "input", "select", "nav", "aside", "dialog",
)  # fmt: skip
_HIDDEN = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)


class UnreadablePage(Exception):
    """A page that is too large, or nested too deeply, to be turned into text."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page. `text` is Markdown that begins with the page's title; `title` and `description` are empty where it has none."""

    text: str
    title: str
    description: str


def read_page(html: str) -> Page:
    """The page of a HTML text, however malformed. Errors: `UnreadablePage`."""
    if len(html) > MOST_CHARACTERS:
        raise UnreadablePage(f"a page of more than {MOST_CHARACTERS // 1_000_000} MB")
    from bs4 import BeautifulSoup, Comment, Tag

    from .web_markdown import markdown_of

    try:
        soup = BeautifulSoup(html, "lxml")
        title = _line(soup.title.get_text()) if soup.title is not None else ""
        heading = _said(soup.find("meta", property="og:title")) or title
        about = soup.find("meta", attrs={"name": "description"}) or soup.find("meta", property="og:description")
        found = soup.find("article") or soup.find("main") or soup.body or soup
        assert isinstance(found, Tag)
        for tag in found.find_all(_NOT_READ):
            tag.decompose()
        for tag in found.find_all(["header", "footer"]) if found.name == "body" else ():
            tag.decompose()  # of the whole page; those of an article belong to it
        # What no reader sees is no text of the page: it is a favourite place for orders to a model.
        for tag in found.find_all(lambda t: t.has_attr("hidden") or bool(_HIDDEN.search(str(t.get("style") or "")))):
            tag.decompose()
        for comment in found.find_all(string=lambda text: isinstance(text, Comment)):
            comment.extract()
        found.smooth()  # text around a comment is one text, and its blanks one blank
        for tag in found.find_all(re.compile(r"^(h[1-6]|p|div|li)$")):
            if not tag.get_text(strip=True) and tag.find("img") is None:
                tag.decompose()
        for number, tag in enumerate(found.find_all("h1")):
            if number == 0 and _line(tag.get_text()) == heading:
                tag.decompose()  # it stands above already
            else:
                tag.name = "h2"  # the first level is the title of the page
        text = markdown_of(found)
    except RecursionError:
        raise UnreadablePage("a page whose elements are nested too deeply") from None
    lines = [
        f"{line.rstrip()}  " if line.endswith("  ") else line.rstrip()
        for line in text.replace("\xa0", " ").splitlines()
    ]
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return Page(text=f"# {heading}\n\n{body}".strip() if heading else body, title=title, description=_said(about))


def _line(text: str) -> str:
    return " ".join(text.split())


def _said(tag: object) -> str:
    get = getattr(tag, "get", None)
    return "" if get is None else _line(str(get("content") or ""))
