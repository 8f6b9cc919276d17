"""Faults and equivalent changes -> matrix.json, matrix.md, matrix.png: what the kit sees, and what it calls it.

`tox -e selftest` runs it. Each fault is put before every law of its side of the border, in as many processes as there
are cores.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
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
from ..core.law import laws
from ..core.result import plain
from ..core.settings import Settings, start_jax
from ..machine.snapshot import cores, keeps_programs, static
from ..workers.plan import keeping
from .picture import draw


def run(settings: Settings, out: Path, ids: Sequence[str] = ()) -> int:
    """Make all trials and write the files; returns 0 if every fault was seen and no equivalent change was, else 5."""
    asked = [entry for entry in [*faults().values(), *changes().values()] if not ids or entry.id in ids]
    began = time.monotonic()
    rows = list(_rows(asked, settings))
    content = gathered(rows, settings, time.monotonic() - began)
    out.mkdir(parents=True, exist_ok=True)
    (out / "matrix.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "matrix.md").write_text(markdown(content), encoding="utf-8")
    drawn = draw(content, out / "matrix.png")
    summary = content["summary"]
    print(
        f"{summary['killed']} of {summary['seeded']} seeded faults seen, {summary['attributed']} attributed to their "
        f"layer; {summary['false_alarms']} false alarms in {summary['equivalent']} equivalent changes; "
        f"{content['seconds']:.0f} s; {out / 'matrix.md'}{'' if drawn else ' (no picture: matplotlib is missing)'}"
    )
    return 0 if summary["killed"] == summary["seeded"] > 0 and not summary["false_alarms"] else 5


def _rows(asked: Sequence[Fault], settings: Settings) -> Iterable[dict[str, Any]]:
    """What each law said of each, as the processes come to it; a line for each on stderr."""
    # An accelerator's devices are for one process at a time.
    simulated = settings.platform in (None, "cpu")
    spawn = multiprocessing.get_context("spawn")
    with (
        # What a fault does not touch compiles once: a wrong lowering is another program, with a key of its own.
        tempfile.TemporaryDirectory(prefix="sftref-") as folder,
        concurrent.futures.ProcessPoolExecutor(
            cores() if simulated else 1,
            spawn,
            initializer=_begin,
            initargs=(settings, Path(folder) if simulated and keeps_programs(static()["versions"]) else None),
        ) as pool,
    ):
        waiting = [pool.submit(_row, entry, settings) for entry in asked]
        for done, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
            found = future.result()
            seen = len(found["seen_by"])
            said = f"seen by {seen} laws, {found['layer'] or 'nothing fell'}" if seen else "seen by no law"
            print(f"   {done} of {len(waiting)}: {found['id']} {said}, {found['seconds']:.0f} s", file=sys.stderr)
            yield found


def _begin(settings: Settings, cache: Path | None) -> None:
    os.environ |= keeping(cache) if cache is not None else {}
    # The optimization level of a trainer's laws is the user's where JAX's own variable is set; see `compilation.py`.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    start_jax(settings)


def _row(entry: Fault, settings: Settings) -> dict[str, Any]:
    from .matrix import row

    began = time.monotonic()
    found = row(entry, settings)
    return {
        "id": entry.id,
        "does": entry.does,
        "expected_layer": entry.layer,
        "expected": list(entry.seen_by),
        "layer": found.layer,
        "cause": found.cause,
        "seen_by": found.seen_by,
        "laws": {law: record.status for law, record in found.records.items()},
        "messages": {law: record.message for law, record in found.records.items() if record.status not in ("pass",)},
        "seconds": round(time.monotonic() - began, 1),
    }


def gathered(rows: Sequence[dict[str, Any]], settings: Settings, seconds: float) -> dict[str, Any]:
    """The rows in the catalogues' order, and what can be counted of them."""
    by_id = {found["id"]: found for found in rows}
    seeded = [by_id[name] for name in faults() if name in by_id]
    equivalent = [by_id[name] for name in changes() if name in by_id]
    tried = [found for found in seeded if set(found["laws"].values()) != {"not_run"}]
    killed = [found for found in tried if set(found["expected"]) <= set(found["seen_by"])]
    alarms = [found for found in equivalent if {"fail", "error"} & set(found["laws"].values())]
    seers = {law: [found["id"] for found in tried if law in found["seen_by"]] for law in laws()}
    return {
        "schema": "sftref.matrix/2",
        "settings": plain(dataclasses.asdict(settings)),
        "environment": static(),
        "seconds": round(seconds, 1),
        "summary": {
            "seeded": len(tried),
            "killed": len(killed),
            "attributed": sum(found["layer"] == found["expected_layer"] for found in killed),
            "equivalent": len(equivalent),
            "false_alarms": len(alarms),
        },
        "survivors": [found["id"] for found in tried if found not in killed],
        "not_run": [found["id"] for found in seeded if found not in tried],
        "misattributed": [found["id"] for found in killed if found["layer"] != found["expected_layer"]],
        "alarms": [found["id"] for found in alarms],
        "seen_by_one_law": {found["id"]: found["seen_by"][0] for found in killed if len(found["seen_by"]) == 1},
        "idle_laws": [law for law, ids in seers.items() if not ids],
        "faults": seeded,
        "equivalent": equivalent,
    }


def markdown(content: dict[str, Any]) -> str:
    """matrix.md."""
    summary = content["summary"]
    rows: list[tuple[str, ...]]
    parts = [
        "# The kill matrix",
        f"{summary['killed']} of {summary['seeded']} seeded faults are seen by every law that must see them, "
        f"{summary['attributed']} of them are attributed to their layer; {summary['false_alarms']} of "
        f"{summary['equivalent']} equivalent changes raise an alarm.",
        "## By layer",
        _by_layer(content),
    ]
    for title, ids in (("Not seen", "survivors"), ("Not run", "not_run"), ("Equivalent, and called a fault", "alarms")):
        if content[ids]:
            found = {entry["id"]: entry for entry in [*content["faults"], *content["equivalent"]]}
            rows = [(f"`{name}`", "; ".join(f"`{law}`: {text[:200]}" for law, text in found[name]["messages"].items()))
                    for name in content[ids]]  # fmt: skip
            parts += [f"## {title}", _table(("", "what the laws said"), rows)]
    if content["misattributed"]:
        found = {entry["id"]: entry for entry in content["faults"]}
        rows = [(f"`{n}`", found[n]["expected_layer"], found[n]["layer"] or "") for n in content["misattributed"]]
        parts += ["## Attributed to another layer", _table(("fault", "layer", "diagnosis"), rows)]
    alone: dict[str, list[str]] = {}
    for name, law in content["seen_by_one_law"].items():
        alone.setdefault(law, []).append(f"`{name}`")
    rows = [(f"`{law}`", ", ".join(names)) for law, names in sorted(alone.items())]
    parts += [
        "## Laws that no other replaces",
        "Each is the only one to see these faults.",
        _table(("law", "faults"), rows),
    ]
    if content["idle_laws"]:
        parts += ["## Laws that saw no fault", ", ".join(f"`{law}`" for law in content["idle_laws"])]
    rows = [(f"`{f['id']}`", f["does"], f["layer"] or "", ", ".join(f"`{law}`" for law in f["seen_by"]))
            for f in content["faults"]]  # fmt: skip
    parts += ["## All faults", _table(("fault", "what is wrong", "diagnosis", "seen by"), rows)]
    rows = [(f"`{f['id']}`", f["does"]) for f in content["equivalent"]]
    parts += ["## Equivalent changes", _table(("change", "what is other"), rows)]
    return "\n\n".join(parts) + "\n"


def _by_layer(content: dict[str, Any]) -> str:
    rows = []
    for layer in dict.fromkeys(found["expected_layer"] for found in content["faults"]):
        mine = [found for found in content["faults"] if found["expected_layer"] == layer]
        killed = sum(found["id"] not in {*content["survivors"], *content["not_run"]} for found in mine)
        right = sum(found["layer"] == layer for found in mine)
        rows.append((layer, str(len(mine)), str(killed), str(right)))
    return _table(("layer", "seeded", "seen", "attributed"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    clean = ([" ".join(cell.split()).replace("|", "\\|") for cell in cells] for cells in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in clean)
