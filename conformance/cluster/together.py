"""All hosts that are still good, in one group: collectives by size and subgroup, then laws of rungs 7, 8 and 9."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.law import split_id
from .director import Director, counted
from .hosts import ranges
from .pairs import JOIN, JOINING, OPERATIONS, SIZES, exchange
from .tournament import apart

# The laws that hosts run together, in this order. `processes.collectives` is a task of its own; `processes.lost` ends a
# process, and `processes.resume` needs a folder that all hosts see: both run on one machine.
TOGETHER = ("processes.devices", "processes.training", "processes.agreement", "processes.layouts", "processes.data")
# Those of `--level quick`.
QUICK = TOGETHER[:3]
# The axes of a grid of devices (`laws/support/messages.py`).
ACROSS, ALONG = ("process",), ("local",)
# How often a new, smaller group is made after a host failed.
MOST_GROUPS = 4


def run_together(director: Director) -> None:
    """The phase `together`. If a host fails, the tasks that are left go on in a new group, without that host."""
    director.begin("together")
    members = good(director)
    done = []
    laws = trainings(director)
    tasks = [*collectives(director), *laws]
    for _ in range(MOST_GROUPS):
        taking = [process for process in good(director) if process in members]
        if not tasks or len(taking) < 2:
            break
        ended = attempt(director, taking, "laws:Laws" if laws else "member:Member", tasks)
        done += tasks[:ended]
        # The task in which a group failed is left out: it may fail again.
        tasks = tasks[ended + 1 :]
    for process in members if len(members) > 1 else ():
        host = director.hosts[process]
        if host.states["together"] == "not_run":
            host.states["together"] = "pass"
    absent = [host.process for host in director.hosts if host.process not in members]
    without = f", without process {ranges(absent)}" if absent else ""
    ran = sum(task["method"] == "law" for task in done)
    counts = f"{len(done) - ran} collectives and {ran} laws of rung 9 ended"
    director.end(f"{len(members)} processes{without}, {counts}" if len(members) > 1 else f"not run{without}")


def attempt(director: Director, members: Sequence[int], factory: str, tasks: Sequence[Mapping[str, Any]]) -> int:
    """Let a group do tasks, and note the results; returns how many tasks ended in all members."""
    deadline = 2 * JOIN + 30 + sum(task["seconds"] for task in tasks)
    results = director.jobs.run("group", members, deadline, [members], factory=factory, join=JOIN, tasks=tasks)
    note(director, members, results)
    names = {task["name"] for task in tasks}
    return min(
        sum(task["state"] == "pass" and task["name"] in names for task in result.get("tasks", ()))
        for result in results.values()
    )


def trainings(director: Director) -> list[dict[str, Any]]:
    """The tasks of laws of rung 9, in the order of trainers, for what the user selected."""
    settings = director.settings
    checks = settings.checks(director.only, processes=2)
    chosen = QUICK if settings.level == "quick" and not director.only else TOGETHER
    found = []
    for check in checks:
        law, subject = split_id(check)
        if law.id in chosen:
            task = {"name": check, "method": "law", "arguments": [check], "seconds": law.deadline}
            found.append((subject or "", TOGETHER.index(law.id), task))
    return [task for _, _, task in sorted(found, key=lambda one: one[:2])]


def good(director: Director) -> list[int]:
    """The processes with which nothing is wrong so far, as far as a process can be told from a link."""
    bad = {process for pair in [*director.bad_links, *director.healed] for process in pair}
    fine = ("pass", "not_run", "slow")
    members = [
        host.process for host in director.hosts
        if all(state in fine for phase, state in host.states.items() if phase != "pairs" or host.process not in bad)
        and not host.out
    ]  # fmt: skip
    # Of two hosts with a bad link between them, one is left out.
    others = apart([pair for pair in director.bad_links if set(pair) <= set(members)])
    return [process for process in members if process not in others]


def collectives(director: Director) -> list[dict[str, Any]]:
    """The tasks: over all processes, across processes only, and within pairs of neighbours."""
    members = good(director)
    tasks = [exchange(operation, size) for size in SIZES[director.settings.level] for operation in OPERATIONS]
    small = SIZES[director.settings.level][0]
    for width, axes in ((1, ACROSS), (2, ALONG), (2, ACROSS)):
        if len(members) % width == 0 and len(members) > width:
            for operation in OPERATIONS:
                task = exchange(operation, small, width, axes)
                along = "across processes" if width == 1 else "in pairs" if axes == ALONG else "across pairs"
                tasks.append(task | {"name": f"{task['name']} {along}"})
    return tasks


def note(director: Director, members: Sequence[int], results: Mapping[int, Mapping[str, Any]]) -> None:
    """Note the results of a group."""
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
    for process, result in results.items():
        for task in result.get("tasks", ()):
            if task["state"] == "pass" and task["name"] != JOINING:
                note_task(director, process, task)


def note_task(director: Director, process: int, task: Mapping[str, Any]) -> None:
    """Note the result of one collective or one law in one process."""
    host, name, value = director.hosts[process], task["name"], task["value"]
    checks = director.together.setdefault(process, {})
    if "wrong" in value:
        found = director.collectives.setdefault(name, [])
        for sender, _, _ in value["wrong"]:
            known = f"from process {sender}" if sender >= 0 else "of a sum"
            host.set("together", "fail", f"{name}: wrong data {known}")
            found.append(f"{host.title}: {name}: wrong data {known}")
        return
    checks[name] = value
    status = "pass" if isinstance(value, list) else value["status"]
    host.checks["together"] = counted(
        {check: "pass" if isinstance(one, list) else one["status"] for check, one in checks.items()}
    )
    if status in ("fail", "error"):
        host.set("together", "fail" if status == "fail" else "error", f"{name}: {value['message']}"[:400])


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
