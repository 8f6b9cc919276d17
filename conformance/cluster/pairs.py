"""The tournament of pairs of hosts: rounds of disjoint pairs, exact collectives in each, then who is to blame."""

from collections.abc import Mapping, Sequence
from typing import Any

from .director import Director
from .tournament import Pair, blamed, rounds

# Seconds to join a group, and for one collective, with its compilation.
JOIN, EXCHANGE = 60, 20.0
# The task of a group before its own.
JOINING = "join"
KIB, MIB = 1024, 1 << 20
OPERATIONS = ("psum", "all_gather", "reduce_scatter", "all_to_all", "ppermute")
# Bytes of a message, by level.
SIZES = {
    "quick": (KIB, 4 * MIB), "standard": (KIB, 64 * KIB, MIB, 4 * MIB),
    "full": (64, KIB, 64 * KIB, MIB - 64, MIB + 64, 4 * MIB, 16 * MIB),
}  # fmt: skip
# The most characters of what was wrong with a pair, so that its entry has at most 200 bytes.
WHAT = 110


def run_pairs(director: Director, most: int | None) -> None:
    """The phase `pairs`, with at most this many rounds."""
    director.begin("pairs")
    plan = rounds(director.members(), most, director.settings.seed)
    for groups in plan:
        left_out = set(hopeless(director))
        playing = [pair for pair in groups if not left_out & set(pair)]
        if playing:
            play(director, playing)
    # What failed by a silence is tried once more: a partition may have healed.
    for pair, (state, _, what) in list(director.pairs.items()):
        if state in ("hang", "crash", "error") and not set(hopeless(director)) & set(pair):
            play(director, [pair])
            again, took, other = director.pairs[pair]
            words = "passed when repeated" if again == "pass" else f"when repeated: {other}"
            director.healed += [pair] if again == "pass" else []
            director.pairs[pair] = (state, took, f"{what[: WHAT // 2]}; {words}"[:WHAT])
    blame(director)
    passed = sum(state == "pass" for state, _, _ in director.pairs.values())
    director.end(f"{passed} of {len(director.pairs)} pairs passed, {len(plan)} round{'' if len(plan) == 1 else 's'}")


def hopeless(director: Director) -> list[int]:
    """The processes that are lost, or failed with two partners and passed with none."""
    bad, _ = blamed(*played(director))
    return [*bad, *(host.process for host in director.hosts if host.out)]


def played(director: Director) -> tuple[list[Pair], list[Pair]]:
    """The pairs that failed, without those of lost processes (their partners may be right), and those that passed."""
    lost = {host.process for host in director.hosts if host.out}
    bad = [pair for pair, (state, _, _) in director.pairs.items() if state != "pass"]
    return [pair for pair in bad if not lost & set(pair)], [pair for pair in director.pairs if pair not in bad]


def play(director: Director, pairs: Sequence[Pair]) -> None:
    """Let disjoint pairs exchange messages at the same time, and note how each went."""
    tasks = [exchange(operation, size) for size in SIZES[director.settings.level] for operation in OPERATIONS]
    members = [process for pair in pairs for process in pair]
    deadline = 2 * JOIN + 30 + sum(task["seconds"] for task in tasks)
    results = director.jobs.run("group", members, deadline, pairs, factory="member:Member", join=JOIN, tasks=tasks)
    for process, result in results.items():
        host = director.hosts[process]
        host.seconds["pairs"] = host.seconds.get("pairs", 0.0) + result.get("seconds", 0.0)
        if result["state"] == "lost":
            host.set("pairs", "lost", result["message"])
        elif result["state"] in ("hang", "crash", "error"):
            director.silences.setdefault(process, result)
    for pair in pairs:
        director.pairs[pair] = judged(pair, [results[process] for process in pair])


def blame(director: Director) -> None:
    """Name bad hosts and links, and set the state of each host. A link that passed when repeated is not bad."""
    bad, good = played(director)
    bad_hosts, links = blamed(bad, good)
    director.bad_links = [pair for pair in links if pair not in director.healed]
    for host in director.hosts:
        own = {pair: result for pair, result in director.pairs.items() if host.process in pair}
        wrong = [result for result in own.values() if result[0] != "pass"]
        if host.process in bad_hosts:
            state, _, what = wrong[0]
            silence = director.silences.get(host.process, {})
            where = f" ({silence['message']})" if silence.get("message") else ""
            words = f"fails with each of its {len(wrong)} partners: {what}{where}"
            host.set("pairs", state, words, silence.get("stack", ()))
        for a, b in links:
            if host.process in (a, b):
                state, _, what = director.pairs[a, b]
                other = director.hosts[b if host.process == a else a]
                host.set("pairs", state, f"the link to {other.title}: {what}")
        if own and host.states["pairs"] == "not_run":
            host.states["pairs"] = "pass"


def judged(pair: Pair, both: Sequence[Mapping[str, Any]]) -> tuple[str, float, str]:
    """The results of the two members of a pair -> its state, its seconds, and what was wrong."""
    seconds = max(result.get("seconds", 0.0) for result in both)
    for state in ("lost", "crash", "error", "hang", "stopped"):
        for process, result in zip(pair, both, strict=True):
            if result["state"] == state:
                task = (result.get("tasks") or [{"name": "join"}])[-1]["name"]
                if state in ("hang", "stopped"):
                    return "hang", seconds, f"hang in {task}"
                return state, seconds, f"{state} of {process} in {task}: {result.get('message', '')}"[:WHAT]
    wrong: dict[str, list[str]] = {}
    for result in both:
        for task in result["tasks"]:
            for sender, receiver, _ in task["value"]["wrong"] if task["name"] != JOINING else ():
                wrong.setdefault(f"{sender}>{receiver}", []).append(task["name"])
    ways = [f"{way} {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}" for way, names in wrong.items()]
    return ("fail" if ways else "pass"), seconds, "; ".join(ways)[:WHAT]


def exchange(operation: str, size: int, *arguments: Any) -> dict[str, Any]:
    """The task of one collective."""
    unit = f"{size / MIB:g} MiB" if size >= MIB else f"{size / KIB:g} KiB" if size >= KIB else f"{size} B"
    return {
        "name": f"{operation} {unit}", "method": "exchange", "arguments": [operation, size, *arguments],
        "seconds": EXCHANGE,
    }  # fmt: skip
