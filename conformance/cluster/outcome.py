"""What process 0 found about hosts and links -> the outcome of the run, from which verdict and reports are made."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..core.law import NotRunReason, laws, split_id
from ..core.result import Result
from ..core.settings import Settings
from ..judge.outcome import Outcome
from .director import Director
from .hosts import PHASES, Host
from .options import Cluster
from .speed.stragglers import summary
from .together import trainings
from .tournament import apart

# The highest rung that each host runs alone, and the law whose result is that of the collectives of all hosts.
TOP_ALONE, COLLECTIVES = 5, "processes.collectives"
# Statuses of a check, the worst first: of the hosts' results, the report has the worst.
ORDER = ("hang", "crash", "fail", "error", "blocked", "not_run", "deviation", "pass")
# Texts of the phases in which a whole host was silent or lost; the verdict is then UNRESPONSIVE.
LOST = ("absent", "lost", "hang", "crash", "error")
MESSAGE = 600


def outcome_of(director: Director, settings: Settings, seconds: float) -> Outcome:
    """The outcome of a run, with one result for each check: the worst of all hosts, with the names of the hosts."""
    every = settings.checks(processes=2)
    planned = {task["name"] for task in trainings(director)}
    ids = [check for check in every if split_id(check)[0].rung <= TOP_ALONE or check in planned]
    ids += [COLLECTIVES] if director.collectives and COLLECTIVES not in ids else []
    outcome = Outcome(settings=settings, expected=ids, cluster=cluster_json(director), seconds=seconds)
    first = next((host for host in director.hosts if host.facts), None)
    if first is not None:
        kept = ("versions", "machine", "drivers", "variables")
        outcome.environment = {name: first.facts[name] for name in kept if name in first.facts} | first.live
        outcome.environment["devices"] = [device for host in director.hosts for device in host.live.get("devices", ())]
    checks = {process: dict(result.get("checks", {})) for process, result in director.alone.items()}
    for process, results in director.together.items():
        checks.setdefault(process, {}).update(results)
    for check in ids:
        found = [(director.hosts[process], several[check]) for process, several in checks.items() if check in several]
        if found:
            outcome.records[check] = merged(check, found)
    if director.collectives:
        outcome.records[COLLECTIVES] = of_collectives(director)
    outcome.fill("the hosts did not get to it")
    outcome.troubles = [
        host.describe() for host in director.hosts
        if host.phase is not None and host.states[host.phase] in LOST
        and not host.checks.get(host.phase, {}).get("failed")  # that is a result of a check
    ]  # fmt: skip
    return outcome


def of_collectives(director: Director) -> Result:
    """The collectives of all hosts as the result of their law."""
    law = laws()[COLLECTIVES]
    wrong = [text for several in director.collectives.values() for text in several]
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    blank = Result.ended(law, None, "fail" if wrong else "pass", f"{wrong[0]}{more}" if wrong else "", 0.0)
    count = len(director.collectives)
    return dataclasses.replace(blank, comparisons=count, compared=count)


def merged(check: str, found: Sequence[tuple[Host, Any]]) -> Result:
    """One check's results on all hosts -> the worst, with the hosts that have it."""
    law, subject = split_id(check)
    passed = [one for _, one in found if isinstance(one, list)]
    others = [(host, one) for host, one in found if isinstance(one, dict)]
    if not others:
        comparisons, compared = (sum(one[k] for one in passed) for k in (0, 1))
        blank = Result.ended(law, subject, "pass", "", max(one[2] for one in passed))
        return dataclasses.replace(blank, comparisons=comparisons, compared=compared)
    host, worst = min(others, key=lambda pair: ORDER.index(pair[1]["status"]))
    same = [other.title for other, one in others if one["status"] == worst["status"]]
    which = host.title if len(same) == 1 else f"{len(same)} of {len(found)} processes, first {host.title}"
    message = worst["message"] if len(same) == len(found) and not worst["message"] else f"{which}: {worst['message']}"
    result = Result.from_json({**worst, "facts": worst.get("facts", {}), "message": message[:MESSAGE]})
    if law.rung <= TOP_ALONE and result.reason == NotRunReason.LACKING:
        # More devices than a host has: the phases pairs and together run the collectives.
        return dataclasses.replace(result, reason=NotRunReason.NOT_APPLICABLE)
    return result


def cluster_json(director: Director) -> dict[str, Any]:
    """The object `cluster` of report.json."""
    hosts = [host.to_json() for host in director.hosts]
    links = [list(pair) for pair in director.bad_links]
    # A host with a bad link only is not bad.
    linked = {process for pair in [*director.bad_links, *director.healed] for process in pair}
    bad = [host.process for host in director.hosts
           if host.phase is not None and not (host.phase == "pairs" and host.process in linked)]  # fmt: skip
    # What is wrong with all of them is no fault of a host.
    bad = bad if len(bad) < len(hosts) else []
    names = {host.process: host.name for host in director.hosts}
    return {
        "processes": len(hosts),
        "launcher": director.cluster.launcher,
        "phases": [phase for phase in PHASES if phase in director.seconds],
        "seconds": director.seconds,
        "hosts": hosts,
        "pairs": [
            [*pair, state, round(took, 3), what] for pair, (state, took, what) in sorted(director.pairs.items())
        ],
        "differences": director.differences,
        "stragglers": [one.to_json() | {"host": names[one.process]} for one in director.stragglers],
        "times": summary(director.times, len(hosts)),
        "bad_hosts": bad,
        "bad_links": links,
        "exclude": exclude(director.cluster, director.hosts, [*bad, *apart(director.bad_links, bad)]),
    }  # fmt: skip


def exclude(cluster: Cluster, hosts: Sequence[Host], left_out: Sequence[int]) -> str:
    """The command line, or the change of it, that leaves these processes' hosts out; empty if there is none."""
    if not left_out:
        return ""
    names = sorted({hosts[process].name for process in left_out} - {""})
    rest = sorted({host.name for host in hosts if host.process not in left_out} - {""} - set(names))
    count = len(hosts) - len(left_out)
    left = sum(host.name in rest for host in hosts)
    if cluster.launcher == "slurm" and names:
        return f"srun --exclude={','.join(names)} sftref verify --distributed auto"
    if cluster.launcher == "openmpi" and rest:
        return f"mpirun --host {','.join(rest)} -n {left} sftref verify --distributed auto"
    if cluster.launcher == "kubernetes" and names:
        return f"kubectl cordon {' '.join(names)}"
    which = f"process {', '.join(map(str, sorted(left_out)))}"
    return f"--num-processes {count}, without {which}{f' on {chr(44).join(names)}' if names else ''}"
