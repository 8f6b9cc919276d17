"""The `cluster` of a report.json -> sections: hosts by phases, pairs of hosts, what differs, and slow hosts."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from ..core.sections import Block, Cell, Figure, Row, Section, Table, Text, number, svg
from .pictures import cells, grid, ratios

# State of a host in a phase, or of a pair -> its words and its colour.
STATES = {
    "pass": ("passed", "good"), "fail": ("wrong result", "bad"), "error": ("raised an error", "bad"),
    "hang": ("hung", "bad"), "crash": ("crashed", "bad"), "lost": ("lost", "bad"), "absent": ("never came", "bad"),
    "different": ("different", "idle"), "slow": ("slow", "idle"), "not_run": ("not run", "quiet"),
}  # fmt: skip
# Up to this number of processes, each has a row with its name; above it, a cell of a grid. The most rows of a table.
FEW, MOST_ROWS = 32, 100
# The most characters of a value in the table of differences; report.json has the whole value.
MOST_VALUE = 100
# A cell of a passed phase or pair is the darker the longer it took: (time / median) up to which it has this opacity.
SHADES = ((1.05, 0.25), (1.25, 0.45), (2.0, 0.7), (float("inf"), 1.0))
DARKER = "A passed one is the darker, the longer it took: up to 1.05, 1.25 and 2 times the median, and more."

Cluster = Mapping[str, Any]


def sections(cluster: Cluster) -> list[Section]:
    """The sections of a cluster, without empty ones; a KeyError or a TypeError if it is not one."""
    parts = [
        Section("Cluster", list(_hosts(cluster)), "cluster"),
        Section("Pairs of processes", list(_pairs(cluster)), "pairs"),
        Section("What differs between processes", list(_differences(cluster["differences"])), "differences"),
        Section("Speed of the processes", list(_speed(cluster)), "stragglers"),
    ]
    return [part for part in parts if part.blocks]


def _hosts(cluster: Cluster) -> Iterator[Block]:
    hosts, phases = cluster["hosts"], cluster["phases"]
    passed = sum(host["status"] == "pass" for host in hosts)
    took = ", ".join(f"{phase} {cluster['seconds'].get(phase, 0):.1f} s" for phase in phases)
    starter = "--coordinator" if cluster["launcher"] == "options" else cluster["launcher"]
    yield Text(f"{passed} of {cluster['processes']} processes passed, started by {starter}. Phases: {took}.")
    if cluster["exclude"]:
        yield Text(cluster["exclude"], "Without the bad hosts")
    usual = {phase: _median(host["seconds"].get(phase) for host in hosts) for phase in phases}
    if len(hosts) > FEW:
        titles = [f"{phase}: median {usual[phase]:.3g} s" for phase in phases]
        colours = [[_colour(h["states"].get(p, "not_run"), h["seconds"].get(p), usual[p]) for h in hosts]
                   for p in phases]  # fmt: skip
        yield Figure(grid(f"{passed} of {len(hosts)} processes passed", titles, colours))
        yield Text(f"A cell for each process, in the order of their numbers, in rows of {FEW}. {DARKER}")
    shown = [host for host in hosts if len(hosts) <= FEW or host["status"] != "pass"]
    rows = [(number(h["process"]), h["host"], *(_phase(h, phase, usual[phase]) for phase in phases),
             f"{h['devices']} x {h['kind']}", h["message"])
            for h in shown[:MOST_ROWS]]  # fmt: skip
    if rows:
        yield Table(("process", "host", *phases, "devices", "message"), rows)
    yield from _more(len(shown))
    stacks = [(number(h["process"]), h["host"], " | ".join(h["stack"])) for h in shown[:MOST_ROWS] if h["stack"]]
    if stacks:
        yield Table(("process", "host", "stack"), stacks, f"stacks of {len(stacks)} processes", folded=True)


def _phase(host: Mapping[str, Any], phase: str, usual: float) -> Cell:
    """The cell of a host and a phase."""
    state, took = host["states"].get(phase, "not_run"), host["seconds"].get(phase)
    words, kind = STATES[state]
    failed = host["checks"].get(phase, {}).get("failed", ())
    seconds = "" if took is None else f"{took:.1f} s"
    parts = ("" if state == "pass" and seconds else words, seconds, f"({', '.join(failed)})" if failed else "")
    text = " ".join(filter(None, parts))
    colour = _colour(state, took, usual)
    # The class `n` keeps a number and its unit on one line.
    return Cell(
        text,
        "good n" if state == "pass" else kind,
        mark=svg(words, 14, 14, cells([(0, 0, colour)], 14)) if colour else "",
    )


def _pairs(cluster: Cluster) -> Iterator[Block]:
    pairs, hosts = cluster["pairs"], cluster["hosts"]
    if not pairs:
        return
    counts = Counter(state for _, _, state, _, _ in pairs)
    summary = ", ".join(f"{counts[state]:,} {words}" for state, (words, _) in STATES.items() if counts[state])
    possible = len(hosts) * (len(hosts) - 1) // 2
    yield Text(f"{len(pairs):,} of {possible:,} pairs: {summary}.")
    names = {host["process"]: host["host"] for host in hosts}
    if cluster["bad_hosts"]:
        listed = ", ".join(f"{process} ({names[process]})" for process in cluster["bad_hosts"][:MOST_ROWS])
        yield Text(listed, "Bad processes")
    if cluster["bad_links"]:
        listed = ", ".join(f"{a}-{b} ({names[a]}, {names[b]})" for a, b in cluster["bad_links"][:MOST_ROWS])
        yield Text(listed, "Bad links")
    yield Figure(_matrix(pairs, len(hosts), summary))
    yield Text(f"Rows send, columns receive. {DARKER} Blank: not run.")
    bad = [pair for pair in pairs if pair[2] != "pass"]
    rows: list[Row] = [(f"{a}, {b}", f"{names[a]}, {names[b]}", Cell(*STATES[state]), what, number(seconds, ".2f"))
                       for a, b, state, seconds, what in bad[:MOST_ROWS]]  # fmt: skip
    if rows:
        yield Table(("processes", "hosts", "result", "where", "seconds"), rows)
    yield from _more(len(bad))


def _matrix(pairs: Sequence[Sequence[Any]], processes: int, words: str) -> str:
    """The matrix of all pairs; of many processes, a cell stands for several, and shows the worst of them."""
    usual = _median(seconds for _, _, state, seconds, _ in pairs if state == "pass")
    most = 96
    several = -(-processes // most)
    worst: dict[tuple[int, int], tuple[int, float]] = {}
    kinds = ("good", "idle", "bad")
    for a, b, state, seconds, what in pairs:
        direction = re.match(r"(\d+)>(\d+)\b", what)
        wrong = {(int(direction[1]), int(direction[2]))} if direction else {(a, b), (b, a)}
        for sender, receiver in ((a, b), (b, a)):
            here = state if state == "pass" or (sender, receiver) in wrong else "pass"
            kind = STATES[here][1]
            rank = kinds.index(kind) if kind in kinds else 1
            shade = _shade(seconds, usual) if here == "pass" and state == "pass" else 1.0 if rank else SHADES[0][1]
            at = receiver // several, sender // several
            worst[at] = max(worst.get(at, (0, 0.0)), (rank, shade))
    side = -(-processes // several)
    size = max(4, min(24, 384 // side))
    labels = range(processes) if several == 1 and size >= 12 else ()
    edge = 24 if labels else 0
    texts = [f'<text x="{edge - 4}" y="{edge + i * size + size - 3}" text-anchor="end">{i}</text>' for i in labels]
    texts += [f'<text x="{edge + i * size + size / 2}" y="{edge - 6}" text-anchor="middle">{i}</text>' for i in labels]
    marks = cells([(x, y, (kinds[rank], shade)) for (x, y), (rank, shade) in sorted(worst.items())], size, edge)
    frame = (
        f'<rect x="{edge}" y="{edge}" width="{side * size}" height="{side * size}" fill="none" stroke="var(--line)"/>'
    )
    return svg(f"Pairs: {words}", edge + side * size + 1, edge + side * size + 1, [frame, *texts, *marks])


def _differences(differences: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    rows = []
    for one in differences[:MOST_ROWS]:
        values = [(str(value["value"]), value["processes"]) for value in one["values"]]
        first, *others = [f"{text[:MOST_VALUE]}{'...' if len(text) > MOST_VALUE else ''} (processes {which})"
                          for text, which in values]  # fmt: skip
        kind = "bad" if one["level"] == "broken" else "idle"
        rows.append((Cell(one["level"], kind), one["name"], first, "; ".join(others)))
    if rows:
        yield Table(("", "name", "value of most processes", "other values"), rows)
    yield from _more(len(differences))


def _speed(cluster: Cluster) -> Iterator[Block]:
    slow, times = cluster["stragglers"], cluster["times"]
    if not times:
        return
    if slow:
        rows = [(number(s["process"]), s["host"], s["what"], Cell(f"{s['ratio']:.3f}", "idle"),
                 f"{s['low']:.3f} to {s['high']:.3f}", number(s["samples"]))
                for s in slow[:MOST_ROWS]]  # fmt: skip
        head = ("process", "host", "measurement", "time / median", "interval", "repetitions")
        yield Table(head, rows, "processes that are slower than the others")
        yield from _more(len(slow))
    else:
        yield Text("No process is slower than the others beyond the noise.")
    named = {(one["what"], one["process"]) for one in slow}
    for what, values in times.items():
        known = [(process, value) for process, value in enumerate(values) if value]
        usual = _median(value[0] for _, value in known)
        if usual:
            points = [(process, *(part / usual for part in value), (what, process) in named)
                      for process, value in known]  # fmt: skip
            yield Figure(ratios(f"{what}: median {usual:.4g} s", points, len(values)))
    yield Text("Time of each process divided by the median of all: dot, median; bar, quartiles; from 0.8 to 1.5.")


def _more(many: int) -> Iterator[Block]:
    if many > MOST_ROWS:
        yield Text(f"And {many - MOST_ROWS:,} more; report.json has all of them.")


def _median(values: Iterator[float | None]) -> float:
    known = [value for value in values if value is not None]
    return median(known) if known else 0.0


def _shade(seconds: float | None, usual: float) -> float:
    ratio = (seconds or 0.0) / usual if usual else 1.0
    return next(opacity for limit, opacity in SHADES if ratio <= limit)


def _colour(state: str, seconds: float | None, usual: float) -> tuple[str, float] | None:
    """The colour and the opacity of a cell; None, a blank one, for what was not run."""
    kind = STATES[state][1]
    return None if kind == "quiet" else (kind, _shade(seconds, usual) if state == "pass" else 1.0)
