"""Sections of a report -> Markdown and HTML, with the same titles, sentences, tables and figures in both."""

# ruff: noqa: D102 - each block has the two methods of `Block`

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .result import printable

STYLE = Path(__file__).with_name("page.css")


def escape(value: object) -> str:
    """A value as text in HTML."""
    return html.escape(printable(str(value)))


def inline(value: object) -> str:
    """A value as one line of Markdown with all markup escaped: ids have brackets, and messages can contain anything."""
    line = " ".join(printable(str(value)).split())
    for mark in ("\\", "`", "*", "_", "[", "]", "<"):
        line = line.replace(mark, f"\\{mark}")
    return line


class Block(Protocol):
    """A part of a section, as paragraphs of Markdown and as HTML."""

    def markdown(self) -> str: ...
    def html(self) -> str: ...


@dataclass(frozen=True)
class Section:
    """A section of a report: its title, and the blocks below it."""

    title: str  # one line
    blocks: Sequence[Block]  # what is below the title, in order
    id: str = ""  # its anchor in HTML
    card: bool = False  # whether HTML puts it in a box with a coloured edge

    def markdown(self) -> str:
        """The section in Markdown; empty if it has figures only."""
        texts = [text for block in self.blocks if (text := block.markdown())]
        return "\n\n".join([f"## {inline(self.title)}", *texts]) if texts else ""

    def html(self) -> str:
        anchor = f' id="{self.id}"' if self.id else ""
        text = "\n".join([f"<h2{anchor}>{escape(self.title)}</h2>", *(block.html() for block in self.blocks)])
        return f'<section class="card">{text}</section>' if self.card else text


@dataclass(frozen=True)
class Text:
    """A paragraph, with an optional bold beginning."""

    text: str
    lead: str = ""

    def markdown(self) -> str:
        return f"**{self.lead}:** {inline(self.text)}" if self.lead else inline(self.text)

    def html(self) -> str:
        return f"<p>{f'<b>{escape(self.lead)}:</b> ' if self.lead else ''}{escape(self.text)}</p>"


@dataclass(frozen=True)
class Items:
    """A list with bullets."""

    texts: Sequence[str]

    def markdown(self) -> str:
        return "\n".join(f"- {inline(text)}" for text in self.texts)

    def html(self) -> str:
        return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in self.texts)}</ul>"


@dataclass(frozen=True)
class Figure:
    """A picture, for HTML only."""

    svg: str

    def markdown(self) -> str:
        return ""

    def html(self) -> str:
        """The picture, in a box that scrolls on a narrow screen."""
        return f'<div class="scroll">{self.svg}</div>'


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str  # its content
    # `code`, `n` for a number, or the class of a colour: `good`, `bad`, `idle`, `quiet`; empty for plain text.
    kind: str = ""
    link: str = ""  # the address to which the text links
    svg: str = ""  # a picture that HTML shows instead of the text
    mark: str = ""  # a picture that HTML shows before the text

    def markdown(self) -> str:
        """The content in one line, with `|` escaped."""
        line = " ".join(printable(self.text).split())
        if self.link:
            line = f"[{inline(self.text)}]({self.link})"
        elif self.kind == "code" and line and "`" not in line:
            line = f"`{line}`"
        else:
            line = inline(line)
        return line.replace("|", "\\|")

    def html(self) -> str:
        text = self.svg or f"{self.mark}{' ' if self.mark else ''}{escape(self.text)}"
        if self.link:
            text = f'<a href="{escape(self.link)}">{text}</a>'
        if self.kind == "code":
            return f"<td><code>{text}</code></td>"
        return f'<td class="{self.kind}">{text}</td>' if self.kind else f"<td>{text}</td>"


Row = Sequence[str | Cell]


def code(text: str) -> Cell:
    """A cell with an identifier or a command."""
    return Cell(text, "code")


def number(value: float | None, form: str = ",") -> Cell:
    """A cell with a number; empty for None."""
    return Cell("" if value is None else f"{value:{form}}", "n")


@dataclass(frozen=True)
class Table:
    """A table."""

    head: Sequence[str]  # the columns' names
    rows: Sequence[Row]  # each with one cell for each column
    caption: str = ""  # the text above it, in HTML only
    folded: bool = False  # whether HTML shows only the caption until it is clicked

    def markdown(self) -> str:
        lines = [[cell.markdown() for cell in cells] for cells in _cells([self.head, *self.rows])]
        lines.insert(1, ["---"] * len(self.head))
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def html(self) -> str:
        """The table, in a box that scrolls on a narrow screen."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.head)
        rows = "\n".join(f"<tr>{''.join(cell.html() for cell in cells)}</tr>" for cells in _cells(self.rows))
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption and not self.folded else ""
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"
        table = f'<div class="scroll">{table}</div>'
        return f"<details><summary>{escape(self.caption)}</summary>{table}</details>" if self.folded else table


def _cells(rows: Iterable[Row]) -> Iterator[list[Cell]]:
    for row in rows:
        yield [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]


def as_markdown(title: str, text: str, sections: Iterable[Section]) -> str:
    """The whole text of a Markdown file."""
    parts = [f"# {inline(title)}", inline(text), *(section.markdown() for section in sections)]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_html(title: str, top: str, sections: Iterable[Section], *, below: str = "", script: str = "") -> str:
    """The whole text of a page that loads no other file; `top` and `below` are HTML before and after the sections."""
    body = "\n".join(section.html() for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>\n"
        f"{top}\n{body}\n{below}</main>{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def svg(words: str, width: float, height: float, marks: Iterable[str]) -> str:
    """A picture in SVG; screen readers read `words` aloud."""
    label = escape(words)
    return (
        f'<svg role="img" aria-label="{label}" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}"><title>{label}</title>{"".join(marks)}</svg>'
    )
