"""What process 0 found about hosts and links -> the outcome of the run, from which verdict and reports are made."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.law import expected
from ..core.result import Result
from ..core.settings import Settings
from ..judge.outcome import Outcome
from .director import Director
from .hosts import PHASES, Host
from .options import Cluster
from .stragglers import summary

# Statuses of a check, the worst first: of the hosts' results, the report has the worst.
ORDER = ("hang", "crash", "fail", "error", "blocked", "not_run", "deviation", "pass")
# Texts of the phases in which a whole host was silent or lost; the verdict is then UNRESPONSIVE.
LOST = ("absent", "lost", "hang", "crash", "error")
MESSAGE = 600


def outcome_of(director: Director, settings: Settings, seconds: float) -> Outcome:
    """The outcome of a run, with one result for each check: the worst of all hosts, with the names of the hosts."""
    ids = expected(settings.level, settings.subjects, settings.only)
    outcome = Outcome(settings=settings, expected=ids, cluster=cluster_json(director), seconds=seconds)
    first = next((host for host in director.hosts if host.facts), None)
    if first is not None:
        kept = ("versions", "machine", "drivers", "variables")
        outcome.environment = {name: first.facts[name] for name in kept if name in first.facts} | first.live
        outcome.environment["devices"] = [device for host in director.hosts for device in host.live.get("devices", ())]
    for check in ids:
        found = [(director.hosts[process], result["checks"][check])
                 for process, result in director.alone.items() if check in result.get("checks", {})]  # fmt: skip
        if found:
            outcome.records[check] = merged(check, found)
    outcome.expected = [check for check in ids if check in outcome.records]
    outcome.troubles = [
        host.describe() for host in director.hosts if host.phase is not None and host.states[host.phase] in LOST
    ]
    return outcome


def merged(check: str, found: Sequence[tuple[Host, Any]]) -> Result:
    """One check's results on all hosts -> the worst, with the hosts that have it."""
    from ..core.law import split_id

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
    return Result.from_json({**worst, "facts": worst.get("facts", {}), "message": message[:MESSAGE]})


def cluster_json(director: Director) -> dict[str, Any]:
    """The object `cluster` of report.json."""
    hosts = [host.to_json() for host in director.hosts]
    links = [list(pair) for pair in director.bad_links]
    # A host with a bad link only is not bad.
    linked = {process for pair in director.bad_links for process in pair}
    bad = [host.process for host in director.hosts
           if host.phase is not None and not (host.phase == "pairs" and host.process in linked)]  # fmt: skip
    # Without one end of each bad link, the others can go on.
    apart = dict.fromkeys(b for a, b in director.bad_links if not {a, b} & set(bad))
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
        "exclude": exclude(director.cluster, director.hosts, [*bad, *apart]),
    }  # fmt: skip


def exclude(cluster: Cluster, hosts: Sequence[Host], left_out: Sequence[int]) -> str:
    """The command line, or the change of it, that leaves these processes' hosts out; empty if there is none."""
    if not left_out:
        return ""
    names = sorted({hosts[process].name for process in left_out} - {""})
    rest = sorted({host.name for host in hosts if host.process not in left_out} - {""} - set(names))
    count = len(hosts) - len(left_out)
    if cluster.launcher == "slurm" and names:
        return f"srun --exclude={','.join(names)} sftref verify --distributed auto"
    if cluster.launcher == "openmpi" and rest:
        return f"mpirun --host {','.join(rest)} -n {count} sftref verify --distributed auto"
    if cluster.launcher == "kubernetes" and names:
        return f"kubectl cordon {' '.join(names)}"
    which = f"process {', '.join(map(str, left_out))}"
    return f"leave out {which}{f' ({chr(44).join(names)})' if names else ''}: --num-processes {count}"


def wrong(cluster: Mapping[str, Any]) -> list[str]:
    """The hosts with a wrong result or another environment, in words, for the verdict."""
    return [f"{one['process']}" for one in cluster["hosts"] if one["status"] in ("fail", "different", "slow")]
