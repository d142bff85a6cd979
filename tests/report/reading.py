"""Reader of pages, without a browser."""

import json
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Checks that every tag is closed, and collects tags, links, texts and scripts."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.links, self.text, self.scripts = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [
            value for name, value in attrs if name in ("src", "href", "action", "srcset")
        ]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    @property
    def data(self):
        """The data that the page's script draws."""
        return json.loads(self.scripts[0])

    def rows(self, chart):
        """The rows of a chart, as the script unpacks them."""
        columns = {
            name: values
            if isinstance(values, list)
            else [None if code is None else values["levels"][code] for code in values["codes"]]
            for name, values in self.data["charts"][chart]["columns"].items()
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
