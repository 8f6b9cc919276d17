"""The content of one file -> `Table`: its columns, with values as they are in the file.

`datasets` and pandas change text such as "NA", "null" and "007" into other values, so Python's own modules read csv and
json here. A .csv follows RFC 4180. A .tsv has no quoting (`csv.QUOTE_NONE`), as in GLUE's files: with quoting, a
question that begins with a quotation mark would include all lines up to the next mark.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from sftref.config import ConfigError, one_line, require
from sftref.data.tasks import LABEL, Task

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

TSV_ODD_ROWS = 1e-3  # the share of rows that may lack fields; GLUE's qqp has 3 of 363,849
SHOWN = 10  # columns of a header that a message shows


class Table(NamedTuple):
    """The columns of a file, all of the same length."""

    columns: Mapping[str, list[Any]]
    classes: tuple[str, ...] = ()  # the names of class 0, 1, ... of the labels, if the file has them


def read_csv(raw: bytes, source: str, task: Task) -> Table:
    """A file of comma-separated values. The separator can also be a semicolon, as Excel writes in half of Europe.

    Raises:
        ConfigError: see `_table`.
    """
    text = decode(raw, source)
    first = text.split("\n", 1)[0]
    has = {d: bool(task.columns_in(cell.strip('"') for cell in first.rstrip("\r").split(d))) for d in ",;\t"}
    delimiter = next((d for d in ",;\t" if has[d]), ",")
    tabs = "\t" in first and delimiter == "," and "," not in first
    hint = "; its fields are separated by tabs: give it the extension .tsv" if tabs else ""
    return _table(_quoted(text, source, delimiter), source, task, hint=hint)


def read_tsv(raw: bytes, source: str, task: Task) -> Table:
    """A file of tab-separated values without quoting. A line ends with a line feed, or with CR and line feed.

    A carriage return inside a line is a part of a text. In a file without any line feed, CR ends a line. If the names
    of the columns are in quotation marks, as in Quora's own release of its pairs, the file is read with quoting.

    Raises:
        ConfigError: see `_table`.
    """
    text = decode(raw, source)
    if '"' in text[:1] and task.columns_in(cell.strip('"') for cell in text.split("\n", 1)[0].rstrip("\r").split("\t")):
        return _table(_quoted(text, source, "\t"), source, task)
    lines = text.split("\n" if "\n" in text else "\r")
    rows = [(k, line.removesuffix("\r").split("\t")) for k, line in enumerate(lines, 1) if line not in ("", "\r")]
    odd = sum(map(_looks_quoted, (cell for _, row in rows for cell in row if cell.startswith('"'))))
    if odd:
        logger.warning(
            '%s: %d fields have "" for " as in a .csv, and are not changed, because a .tsv has no quoting in GLUE; '
            "if these are quoted, give the file the extension .csv",
            source,
            odd,
        )
    return _table(rows, source, task, tolerance=TSV_ODD_ROWS)


def _looks_quoted(cell: str) -> bool:
    """Whether a cell that begins with a quotation mark is quoted as in a csv, with at least one mark inside."""
    inside = cell[1:-1]
    return cell.endswith('"') and '""' in inside.strip('"') and '"' not in inside.replace('""', "")


def _quoted(text: str, source: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Text with quoting -> (line, cells) of each row."""
    # Only a line feed ends a line here: Python would also split the texts at a CR.
    lines = io.StringIO(text, newline="\n" if "\n" in text else "\r")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    start = 1  # where the row starts: an unclosed quotation mark is noticed only many lines later
    with _fields_of_any_length(len(text)):
        try:
            for row in reader:
                if row:
                    rows.append((start, row))
                start = reader.line_num + 1
        except csv.Error as error:
            reason = one_line(error)
            if "new-line" in reason:  # csv.c's words for a CR in a field without quotation marks
                reason = "a carriage return in a field without quotation marks"
            raise ConfigError(f"{source} line {start}: {reason}; fix that row") from error
    return rows


@contextmanager
def _fields_of_any_length(most: int) -> Iterator[None]:
    """Python's csv module refuses fields of more than 131,072 characters, unless its setting is raised."""
    before = csv.field_size_limit(max(most, 131_072))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table(
    rows: list[tuple[int, list[str]]], source: str, task: Task, *, tolerance: float = 0.0, hint: str = ""
) -> Table:
    """(line, cells) of each row -> a table. Rows with another number of fields than the header are left out if few.

    Raises:
        ConfigError: there is no line of names; two columns of the task have one name; rows have another number of
            fields.
    """
    if not rows:
        return Table({})
    header = rows[0][1]
    if not task.columns_in(header):
        require(_is_headerless(header, task), _no_names(rows[0], source, task) + hint)
        header = list(task.headerless)
    else:
        rows = rows[1:]
    twice = sorted({name for name in header if header.count(name) > 1 and task.columns_in([name])})
    require(
        not twice,
        f"{source} line 1: columns {', '.join(header)} must have different names; rename one of {', '.join(twice)}",
    )
    odd = [(line, len(row)) for line, row in rows if len(row) != len(header)]
    if odd:
        rule = f"{source} line {odd[0][0]} has {odd[0][1]} fields, must have {len(header)}"
        counts = f"{len(odd)} of {len(rows)} rows have another number of fields"
        require(len(odd) <= tolerance * len(rows), f"{rule}; {counts}; fix them")
        logger.warning("%s; left out: %s", rule, counts)
        rows = [row for row in rows if len(row[1]) == len(header)]
    return Table({name: [row[i] for _, row in rows] for i, name in enumerate(header)})


def _is_headerless(first: Sequence[str], task: Task) -> bool:
    """Whether `first` is a row of GLUE's own file of the task, which has no line of names."""
    if len(first) != len(task.headerless) or not task.headerless:
        return False
    label = first[task.headerless.index(LABEL)]
    return label.isdecimal() and int(label) < task.num_labels


def _no_names(row: tuple[int, list[str]], source: str, task: Task) -> str:
    line, cells = row
    shown = " | ".join(cell if len(cell) <= 30 else cell[:29] + "…" for cell in cells[:SHOWN])
    return (
        f"{source} line {line}: no column {' nor '.join((*task.fields, LABEL))}, which --task {task.name} needs, in "
        f"[{shown}]; if that line is data, the file has no line of names: insert one before it"
    )


def read_json(raw: bytes, source: str, task: Task) -> Table:
    """An array of objects, one object a line, or one object of columns as pandas writes it.

    Raises:
        ConfigError: the text is not JSON, or not of objects; the columns of an object have different lengths.
    """
    text = decode(raw, source)
    whole = text.lstrip().startswith("[")
    rows: list[Any] = []
    for number, part in enumerate([text] if whole else text.split("\n" if "\n" in text else "\r"), start=1):
        if part.strip():
            try:
                value = json.loads(part)
            except json.JSONDecodeError as error:
                if not whole and number == 1 and (one := _one_object(text)) is not None:
                    rows = [one]
                    break
                line = error.lineno if whole else number
                raise ConfigError(f"{source} line {line}: not JSON ({error.msg}); fix that line") from error
            rows.extend(value if whole else [value])
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ConfigError(f"{source} row {i} is {json.dumps(row)[:40]}, must be an object of columns")
    if len(rows) == 1 and not whole and (found := task.columns_in(rows[0])):
        values = [rows[0][name] for name in found.values()]
        if all(isinstance(value, list | dict) for value in values):
            return _columns(rows[0], found, source)
    inner = [name for name in rows[0] if _is_rows(rows[0][name])] if len(rows) == 1 else []
    require(
        not inner,
        f"{source} is one object whose rows are in {', '.join(inner)}, must be an array of objects or one object a "
        f"line; write only {inner[0] if inner else ''} to the file",
    )
    return Table({name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)})


def _one_object(text: str) -> dict[str, Any] | None:
    """The one object, on several lines, that a file consists of; None if it is something else."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _columns(content: dict[str, Any], found: Mapping[str, str], source: str) -> Table:
    """{"label": [1, 0]} or {"label": {"0": 1, "1": 0}}, `orient="list"` and the default of pandas -> a table."""
    columns = {name: content[name] for name in found.values()}
    kinds = {(type(value), tuple(value) if isinstance(value, dict) else len(value)) for value in columns.values()}
    sizes = ", ".join(f"{name} {len(value)}" for name, value in columns.items())
    require(len(kinds) == 1, f"{source}: its columns have different rows ({sizes}); write the file again")
    return Table({name: list(v.values()) if isinstance(v, dict) else v for name, v in columns.items()})


def read_parquet(raw: bytes, source: str, task: Task) -> Table:
    """A Parquet file; other columns than the task's are not decoded.

    Raises:
        ConfigError: it is not a Parquet file, or a text is not UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        return _arrow_table(file.schema_arrow, lambda names: file.read(columns=names), task)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read as Parquet ({one_line(error)}); write it again") from error


def read_arrow(raw: bytes, source: str, task: Task) -> Table:
    """An Arrow file, which pandas calls Feather, or an Arrow stream, as in the cache of `datasets`.

    Raises:
        ConfigError: it is neither, or a text is not UTF-8.
    """
    import pyarrow as pa

    try:
        opened = (pa.ipc.open_file if raw[:6] == b"ARROW1" else pa.ipc.open_stream)(pa.BufferReader(raw))
        return _arrow_table(opened.schema, lambda names: opened.read_all().select(names), task)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read as Arrow ({one_line(error)}); write it again") from error


def _arrow_table(schema: pa.Schema, read: Any, task: Task) -> Table:
    """The task's columns, or all if one is missing, so that a message can name them."""
    found = task.columns_in(schema.names)
    complete = len(found) == len(task.fields) + 1
    columns = read(list(found.values())).to_pydict() if complete else {name: [] for name in schema.names}
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(found.get(LABEL), {})
    return Table(columns, tuple(feature.get("names", ())) if isinstance(feature, dict) else ())


def decode(raw: bytes, source: str) -> str:
    """UTF-8, with or without a byte order mark, as in GLUE's mrpc -> text.

    Raises:
        ConfigError: the bytes are not UTF-8.
    """
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ConfigError(
                f"{source}: is UTF-16, must be UTF-8; convert it with iconv -f UTF-16 -t UTF-8"
            ) from error
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{source} line {line}: byte {error.start} is 0x{raw[error.start]:02x}, which is not UTF-8; convert the "
            "file, for example with iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
