"""Faults and equivalent changes -> matrix.json, matrix.md, matrix.png: which laws see which fault.

`tox -e selftest` runs it: each fault is tested by every law that can meet it, in as many processes as there are cores.
Each row is appended to rows.jsonl when it ends, so a run that was interrupted continues, and only the rows of another
kit, environment or setting are made again.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..core.fault import Fault, changes, faults
from ..core.kit import KIT
from ..core.law import laws
from ..core.release import hashes
from ..core.result import plain
from ..core.settings import Settings, start_jax
from ..judge.diagnosis import diagnose
from ..judge.mutation_score import laws_at
from ..machine.snapshot import cores, keeps_programs, static
from ..workers.plan import cache_variables
from .picture import draw

ROWS = "rows.jsonl"


def run(settings: Settings, out: Path, ids: Sequence[str] = ()) -> int:
    """Run all trials, or those of `ids`, and write the files to `out`.

    Returns:
        0 if every fault was seen by the laws that must see it at this level, and no equivalent change by any; else 5.
    """
    entries = [entry for entry in [*faults().values(), *changes().values()] if not ids or entry.id in ids]
    above = [entry.id for entry in entries if entry.seen_by and not laws_at(entry, settings.level)]
    if above:
        print(f"   left out, as they are seen from a higher level on: {', '.join(above)}", file=sys.stderr)
        entries = [entry for entry in entries if entry.id not in above]
    out.mkdir(parents=True, exist_ok=True)
    made_by = _made_by(settings)
    done = _stored(out / ROWS, made_by)
    rows = [done[entry.id] for entry in entries if entry.id in done]
    if rows:
        print(f"   {len(rows)} of {len(entries)} rows are in {out / ROWS}", file=sys.stderr)
    missing = [entry for entry in entries if entry.id not in done]
    with (out / ROWS).open("w", encoding="utf-8") as file:
        for row in itertools.chain(done.values(), _rows(missing, settings)):
            print(json.dumps({"made_by": made_by} | row), file=file, flush=True)
            if row["id"] not in done:
                rows.append(row)
    content = gathered(rows, settings)
    (out / "matrix.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "matrix.md").write_text(markdown(content), encoding="utf-8")
    drawn = draw(content, out / "matrix.png")
    summary = content["summary"]
    print(
        f"{summary['killed']} of {summary['seeded']} seeded faults seen, {summary['attributed']} attributed to their "
        f"layer; {summary['false_alarms']} false alarms in {summary['equivalent']} equivalent changes; "
        f"{content['seconds']:.0f} s of trials; {out / 'matrix.md'}"
        f"{'' if drawn else ' (no picture without matplotlib)'}"
    )
    return 0 if summary["killed"] == summary["seeded"] > 0 and not summary["false_alarms"] else 5


def _stored(path: Path, made_by: str) -> dict[str, dict[str, Any]]:
    """Id -> row, of those rows of an earlier run that would be the same today."""
    if not path.exists():
        return {}
    # A process that is killed can leave half a line.
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
    rows = [json.loads(line) for line in lines]
    return {row["id"]: row for row in rows if row.pop("made_by") == made_by}


def _made_by(settings: Settings) -> str:
    """A digest of the kit, the environment and the settings."""
    whole = [hashes(KIT), static(), plain(dataclasses.asdict(settings))]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _rows(entries: Sequence[Fault], settings: Settings) -> Iterable[dict[str, Any]]:
    """The rows of the matrix, in the order in which processes finish them; prints a line for each on stderr."""
    # One process at a time can use an accelerator.
    simulated = settings.platform in (None, "cpu")
    with (
        # The processes share compiled programs; a fault's wrong lowering has a cache key of its own.
        tempfile.TemporaryDirectory(prefix="sftref-") as folder,
        concurrent.futures.ProcessPoolExecutor(
            cores() if simulated else 1,
            multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(settings, Path(folder) if simulated and keeps_programs(static()["versions"]) else None),
        ) as pool,
    ):
        waiting = [pool.submit(_row, entry, settings) for entry in entries]
        try:
            for done, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
                row = future.result()
                laws = f"{len(row['seen_by'])} laws, {row['layer'] or 'no diagnosis'}" if row["seen_by"] else "no law"
                print(
                    f"   {done} of {len(waiting)}: {row['id']} seen by {laws}, {row['seconds']:.0f} s", file=sys.stderr
                )
                yield row
        finally:
            # An error would otherwise be told only after all rows, which take hours.
            pool.shutdown(cancel_futures=True)


def _begin(settings: Settings, cache: Path | None) -> None:
    os.environ |= cache_variables(cache) if cache is not None else {}
    # A user's JAX variable sets the optimization level of the laws of trainers; see `laws/support/compilation.py`.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    start_jax(settings)


def _row(entry: Fault, settings: Settings) -> dict[str, Any]:
    from .trial import as_run, row

    began = time.monotonic()
    results = row(entry, settings)
    diagnosis = diagnose(as_run(entry, results, settings)) or {"layer": None, "cause": ""}
    return {
        "id": entry.id,
        "does": entry.does,
        "expected_layer": entry.layer,
        "expected": laws_at(entry, settings.level),
        "layer": diagnosis["layer"],
        "cause": diagnosis["cause"],
        "seen_by": [law for law, result in results.items() if result.status == "fail"],
        "laws": {law: result.status for law, result in results.items()},
        "messages": {law: result.message for law, result in results.items() if result.status != "pass"},
        "seconds": round(time.monotonic() - began, 1),
    }


def gathered(rows: Sequence[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """matrix.json: the rows in the order of the catalogues, and counts."""
    by_id = {row["id"]: row for row in rows}
    seeded = [by_id[name] for name in faults() if name in by_id]
    equivalent = [by_id[name] for name in changes() if name in by_id]
    tried = [row for row in seeded if set(row["laws"].values()) != {"not_run"}]
    killed = [row for row in tried if set(row["expected"]) <= set(row["seen_by"])]
    alarms = [row for row in equivalent if {"fail", "error"} & set(row["laws"].values())]
    return {
        "schema": "sftref.matrix/2",
        "settings": plain(dataclasses.asdict(settings)),
        "environment": static(),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "summary": {
            "seeded": len(tried),
            "killed": len(killed),
            "attributed": sum(row["layer"] == row["expected_layer"] for row in killed),
            "equivalent": len(equivalent),
            "false_alarms": len(alarms),
        },
        "survivors": [row["id"] for row in tried if row not in killed],
        "not_run": [row["id"] for row in seeded if row not in tried],
        "seen_above": [fault.id for fault in faults().values() if not laws_at(fault, settings.level)],
        "misattributed": [row["id"] for row in killed if row["layer"] != row["expected_layer"]],
        "alarms": [row["id"] for row in alarms],
        "seen_by_one_law": {row["id"]: row["seen_by"][0] for row in killed if len(row["seen_by"]) == 1},
        "idle_laws": [law for law in laws() if not any(law in row["seen_by"] for row in tried)],
        "faults": seeded,
        "equivalent": equivalent,
    }


def markdown(content: dict[str, Any]) -> str:
    """matrix.md."""
    summary, by_id = content["summary"], {row["id"]: row for row in [*content["faults"], *content["equivalent"]]}
    parts = [
        "# The kill matrix",
        f"{summary['killed']} of {summary['seeded']} seeded faults are seen by every law that must see them, "
        f"{summary['attributed']} of them are attributed to their layer; {summary['false_alarms']} of "
        f"{summary['equivalent']} equivalent changes raise an alarm.",
        "## By layer",
        _by_layer(content),
    ]
    rows: list[tuple[str, ...]]
    for title, key in (("Not seen", "survivors"), ("Not run", "not_run"), ("False alarms", "alarms")):
        if content[key]:
            texts = ([f"`{law}`: {text[:200]}" for law, text in by_id[n]["messages"].items()] for n in content[key])
            rows = [(f"`{name}`", "; ".join(messages)) for name, messages in zip(content[key], texts, strict=True)]
            parts += [f"## {title}", _table(("", "messages of the laws"), rows)]
    if content["seen_above"]:
        names = ", ".join(f"`{name}`" for name in content["seen_above"])
        parts += ["## Seen from a higher level on", f"Level {content['settings']['level']} cannot see {names}."]
    if content["misattributed"]:
        wrong = [by_id[name] for name in content["misattributed"]]
        rows = [(f"`{row['id']}`", row["expected_layer"], row["layer"] or "") for row in wrong]
        parts += ["## Attributed to another layer", _table(("fault", "layer", "diagnosis"), rows)]
    alone: dict[str, list[str]] = {}
    for name, law in content["seen_by_one_law"].items():
        alone.setdefault(law, []).append(f"`{name}`")
    rows = [(f"`{law}`", ", ".join(names)) for law, names in sorted(alone.items())]
    parts += ["## Laws that no other replaces", "Only this law sees these faults.", _table(("law", "faults"), rows)]
    if content["idle_laws"]:
        parts += ["## Laws that saw no fault", ", ".join(f"`{law}`" for law in content["idle_laws"])]
    rows = [
        (f"`{row['id']}`", row["does"], row["layer"] or "", ", ".join(f"`{law}`" for law in row["seen_by"]))
        for row in content["faults"]
    ]
    parts += ["## All faults", _table(("fault", "what is wrong", "diagnosis", "seen by"), rows)]
    rows = [(f"`{row['id']}`", row["does"]) for row in content["equivalent"]]
    parts += ["## Equivalent changes", _table(("change", "what is different"), rows)]
    return "\n\n".join(parts) + "\n"


def _by_layer(content: dict[str, Any]) -> str:
    rows = []
    for layer in dict.fromkeys(row["expected_layer"] for row in content["faults"]):
        own = [row for row in content["faults"] if row["expected_layer"] == layer]
        killed = sum(row["id"] not in {*content["survivors"], *content["not_run"]} for row in own)
        right = sum(row["layer"] == layer for row in own)
        rows.append((layer, str(len(own)), str(killed), str(right)))
    return _table(("layer", "seeded", "seen", "attributed"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    clean = ([" ".join(cell.split()).replace("|", "\\|") for cell in cells] for cells in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in clean)
