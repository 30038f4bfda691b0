"""A page of HTML, taken apart."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, attributes, and the text of each section, by its id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("section", "title"):
            self._section = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        existing = self.sections.get(self._section, "")
        self.sections[self._section] = " ".join(f"{existing} {data}".split())
