"""All hosts that are still good, in one group: collectives by size and subgroup, then laws of rungs 7, 8 and 9."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..laws.support.messages import AXES
from .director import JOIN, OPERATIONS, SIZES, Director, exchange

# How often a new, smaller group is made after a host failed.
MOST_GROUPS = 4


def run_together(director: Director) -> None:
    """The phase `together`. If a host fails, the tasks that are left go on in a new group, without that host."""
    director.begin("together")
    tasks = collectives(director)
    whole = members = good(director)
    passed, groups = 0, 0
    while tasks and len(members) > 1 and groups < MOST_GROUPS:
        groups += 1
        deadline = 2 * JOIN + 30 + sum(task["seconds"] for task in tasks)
        results = director.jobs.run(
            "group", members, deadline, [members], factory="member:Member", join=JOIN, tasks=tasks
        )
        done = min((len(result.get("tasks", ())) for result in results.values()), default=0)
        passed += note(director, members, results)
        # The task in which the group failed is left out: it may hang again.
        tasks = tasks[max(done - 1, 0) + (0 if all(r["state"] == "pass" for r in results.values()) else 1) :]
        members = [process for process in good(director) if process in members]
        if all(result["state"] == "pass" for result in results.values()):
            break
    for process in whole:
        host = director.hosts[process]
        if host.states["together"] == "not_run":
            host.states["together"] = "pass"
    left = [host.process for host in director.hosts if host.process not in whole]
    without = f", without process {', '.join(map(str, left))}" if left else ""
    director.end(
        f"{len(whole)} processes{without}, {passed} collectives passed" if len(whole) > 1 else f"not run{without}"
    )


def good(director: Director) -> list[int]:
    """The processes with which nothing is wrong so far, as far as a process can be told from a link."""
    bad = {process for pair in director.bad_links for process in pair}
    fine = ("pass", "not_run", "slow")
    members = [
        host.process for host in director.hosts
        if all(state in fine for phase, state in host.states.items() if phase != "pairs" or host.process not in bad)
        and not host.out
    ]  # fmt: skip
    # Of two hosts with a bad link between them, one is left out.
    for a, b in director.bad_links:
        if a in members and b in members:
            members.remove(b)
    return members


def collectives(director: Director) -> list[dict[str, Any]]:
    """The tasks: over all processes, across processes only, and within pairs of neighbours."""
    members = good(director)
    tasks = [exchange(operation, size) for size in SIZES[director.settings.level] for operation in OPERATIONS]
    small = SIZES[director.settings.level][0]
    for width, axes in ((1, AXES[:1]), (2, AXES[1:]), (2, AXES[:1])):
        if len(members) % width == 0 and len(members) > width:
            for operation in OPERATIONS:
                task = exchange(operation, small, width, axes)
                along = "across processes" if width == 1 else "in pairs" if axes == AXES[1:] else "across pairs"
                tasks.append(task | {"name": f"{task['name']} {along}"})
    return tasks


def note(director: Director, members: Sequence[int], results: Mapping[int, Mapping[str, Any]]) -> int:
    """Note the results of a group; returns how many collectives passed in all of its processes."""
    failed = [process for process in members if results[process]["state"] not in ("pass", "stopped")]
    for process, result in results.items():
        host = director.hosts[process]
        host.seconds["together"] = host.seconds.get("together", 0.0) + result.get("seconds", 0.0)
    for process in blame(failed, results):
        result = results[process]
        tasks = result.get("tasks") or [{"name": "join"}]
        message = f"{tasks[-1]['name']}: {result.get('message', '')}"[:400]
        director.hosts[process].set(
            "together", result["state"], message, result.get("stack", tasks[-1].get("stack", ()))
        )
    wrong: dict[str, list[list[Any]]] = {}
    for result in results.values():
        for task in result.get("tasks", ()):
            if task["name"] != "join" and task["state"] == "pass":
                wrong.setdefault(task["name"], []).extend(task["value"]["wrong"])
    for name, pairs in wrong.items():
        for sender, receiver, _ in pairs:
            known = f"from process {sender}" if sender >= 0 else "of a sum"
            director.hosts[receiver].set("together", "fail", f"{name}: wrong data {known}")
    return sum(not pairs for pairs in wrong.values())


def blame(failed: Sequence[int], results: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Of processes that failed together, those that failed first: others may only have waited for them.

    Lost, crashed and raising processes come before silent ones. Of silent ones, those with another stack than most.
    """
    for states in (("lost", "crash"), ("error",)):
        chosen = [process for process in failed if results[process]["state"] in states]
        if chosen:
            return chosen
    stacks = [str((results[process].get("tasks") or [{}])[-1].get("stack", "")) for process in failed]
    usual = max(stacks, key=stacks.count, default="")
    odd = [process for process, stack in zip(failed, stacks, strict=True) if stack != usual]
    return odd if odd and stacks.count(usual) > len(odd) else list(failed)
