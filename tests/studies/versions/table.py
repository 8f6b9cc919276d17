"""Reports of many releases of JAX -> a table of releases by rungs, with the reason for each failed check.

    tox run -e jax0.5.3,jax0.6.2,jax0.7.2,jax0.8.3,jax0.9.2,jax0.10.2,jax0.11.1,jax0.12.0.1
    python tests/studies/versions/table.py versions --commit "$(git rev-parse --short HEAD)"

Writes `README.md` beside this file. Nothing in it is written by hand: results come from the reports, reasons from
`known.toml`. Exits with 1 if a failed check has no entry in `known.toml`, or an entry has no failed check.
"""

import argparse
import json
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("jaxlib", "flax", "optax", "numpy", "python")
UNWAITED = "collectives.unwaited"
FELL = ("fail", "error", "hang", "crash")
# The beginnings of two reasons that all releases share: a capability not claimed, and a law that does not apply.
APART = ("capability ", "does not apply")
Report = Mapping[str, Any]


def version(report: Report) -> tuple[int, ...]:
    """The version of JAX as numbers, to sort releases."""
    return tuple(int(part) for part in report["environment"]["versions"]["jax"].split("."))


def jax(report: Report) -> str:
    """The version of JAX as text."""
    return str(report["environment"]["versions"]["jax"])


def cell(checks: Sequence[Report]) -> str:
    """The results of a rung's checks, for one cell of the table."""
    counts = {
        "passed": sum(check["status"] == "pass" for check in checks),
        "**failed**": sum(check["status"] in FELL for check in checks),
        "known deviation": sum(check["status"] == "deviation" for check in checks),
        "blocked": sum(check["status"] == "blocked" for check in checks),
        "not run": sum(check["status"] == "not_run" and not check["message"].startswith(APART) for check in checks),
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "does not apply"


def queue(report: Report) -> str:
    """The result for steps that no one waits for, which has a separate report."""
    if "unwaited" not in report:
        return "not run"
    check = next(check for check in report["unwaited"]["checks"] if check["law"] == UNWAITED)
    return {"pass": "end", "deviation": "**hang** (known)"}.get(check["status"], f"**{check['status']}**")


def rows(reports: Sequence[Report]) -> Iterator[list[str]]:
    """The table, the head first: a row for each release, a column for each rung."""
    rungs = sorted({(check["rung"], check["rung_name"]) for report in reports for check in report["checks"]})
    yield ["JAX", *PACKAGES, "trainers", "verdict", *(f"{rung} {name}" for rung, name in rungs), "unwaited steps",
           "seeded faults", "seconds"]  # fmt: skip
    for report in reports:
        versions = report["environment"]["versions"]
        cells = [cell([check for check in report["checks"] if check["rung"] == rung]) for rung, _ in rungs]
        seen = sum(fault["status"] == "killed" for fault in report["faults"])
        trainers = dict.fromkeys(check["subject"] for check in report["checks"] if check["subject"])
        asked = sum(fault["status"] != "not_run" for fault in report["faults"])
        yield [
            f"**{jax(report)}**", *(versions.get(name, "") for name in PACKAGES), ", ".join(trainers),
            report["verdict"], *cells,
            queue(report), f"{seen} of {asked} seen", f"{report['timing']['seconds']:.0f}",
        ]  # fmt: skip


def fallen(reports: Iterable[Report]) -> Iterator[tuple[Report, Report]]:
    """Each check that failed, or that did not run because something was missing, with its report."""
    for report in reports:
        for check in report["checks"]:
            missing = check["status"] == "not_run" and not check["message"].startswith(APART)
            if check["status"] in FELL or missing:
                yield report, check


def explained(reports: Sequence[Report], known: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Lines on the failed checks; and errors: a failed check without an entry, an entry without a failed check."""
    lines, amiss, used = [], [], set()
    for report, check in fallen(reports):
        found = next((i for i, entry in enumerate(known)
                      if check["law"] in entry["laws"] and jax(report) in entry["jax"]), None)  # fmt: skip
        if found is None:
            amiss.append(f"JAX {jax(report)}: {check['id']} has no entry in known.toml: {check['message'][:200]}")
            continue
        used.add(found)
        message = " ".join(check["message"].split())[:240].replace("|", "\\|").replace("<", "\\<")
        lines.append(f"- JAX {jax(report)}, `{check['id']}`, {check['status']}: {message}")
        lines.append(f"  *{' '.join(known[found]['why'].split())}* ({known[found]['source']})")
    for report in reports:
        seen = [fault for fault in report["faults"] if fault["status"] == "survived"]
        amiss += [f"JAX {jax(report)}: the seeded fault {fault['id']} was not seen" for fault in seen]
    covered = {jax(report) for report in reports}
    amiss += [f"the entry for {', '.join(entry['laws'])} under JAX {', '.join(entry['jax'])} has no check that fell"
              for i, entry in enumerate(known) if i not in used and covered & set(entry["jax"])]  # fmt: skip
    return lines, amiss


def page(reports: Sequence[Report], lines: Sequence[str], commit: str, note: str = "") -> str:
    """The text of the page; the note is a sentence about this run."""
    head, *table = rows(reports)
    cells = [head, ["---"] * len(head), *table]
    level, machine = reports[0]["settings"]["level"], reports[0]["environment"]["machine"]
    said = [
        "# Releases of JAX",
        f"The table has the results of `sftref verify --level {level}` under each release, on "
        f"{reports[0]['environment']['platforms'][-1]} ({machine['cores']} cores, "
        f"{len(reports[0]['environment']['devices'])} devices), at commit {commit}. `table.py` beside this file made "
        f"it from the runs' reports. The trainer `shard_map` needs JAX 0.6.1. {note}".rstrip(),
        "\n".join(f"| {' | '.join(row)} |" for row in cells),
        "The oldest release is 0.5.3. Before 0.5 no setting simulates devices (`jax_num_cpu_devices`), and a key's "
        "random bits depend on the sharding (`jax_threefry_partitionable` is off).",
        "Before JAX 0.8 `pmap` has an implementation of its own; from 0.8 on it is `jit` of `shard_map` "
        "(https://docs.jax.dev/en/latest/migrate_pmap.html). So on older releases the agreement of `pmap` with the "
        "other trainers proves more.",
        '"Unwaited steps" are 300 steps with an all-reduce, on simulated devices, for whose results no one waits. If '
        "they hang, `verify` reports a known deviation (law `collectives.unwaited`) and a way to avoid the hang. The "
        "trainers here wait.",
        "## What failed, and why",
        "\n".join(lines) or "Nothing.",
    ]
    return "\n\n".join(part if part[0] in "|#-" else textwrap.fill(part, 120) for part in said) + "\n"


def main() -> int:
    """Read the reports, explain the failures, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="has a folder for each release, with a report.json in it")
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    parser.add_argument("--commit", required=True, help="the commit that the runs were made at")
    parser.add_argument("--note", default="", help="a sentence about this run, such as what else the machine did")
    given = parser.parse_args()
    reports = []
    for path in given.folder.glob("*/report.json"):
        reports.append(json.loads(path.read_text()))
        if (other := path.parent / "unwaited" / path.name).exists():
            reports[-1]["unwaited"] = json.loads(other.read_text())
    reports = sorted((report for report in reports if "jax" in report["environment"].get("versions", {})), key=version)
    if not reports:
        print(f"table.py {given.folder}: holds no */report.json; run tox as this file says", file=sys.stderr)
        return 2
    known = tomllib.loads((HERE / "known.toml").read_text()).get("known", [])
    lines, amiss = explained(reports, known)
    given.out.write_text(page(reports, lines, given.commit, given.note), encoding="utf-8")
    print("\n".join([*amiss, str(given.out)]))
    return int(bool(amiss))


if __name__ == "__main__":
    sys.exit(main())
