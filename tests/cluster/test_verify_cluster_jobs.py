"""Process 0 of a run on several hosts, with agents that answer from a script: what it says about hosts and links."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sftref.conformance import report
from sftref.conformance.cluster import jobs, outcome, pairs, run, store, together
from sftref.conformance.cluster.director import Director
from sftref.conformance.cluster.options import Cluster
from sftref.conformance.core.settings import Settings
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.judge.verdict import judge

pytestmark = pytest.mark.once
Answer = dict[str, Any]
# A script: (job, process, the other members of its group) -> what differs from the answer of a right host.
Script = Callable[[Mapping[str, Any], int, list[int]], Answer | None]
SETTINGS = Settings(level="quick", devices=1)
LAW = "copies.round_trip"


def right(job: Mapping[str, Any], process: int, group: list[int]) -> Answer:
    """What the agent of a right host answers."""
    if job["do"] == "start":
        return {"state": "pass", "live": {"devices": [{"id": process, "kind": "cpu"}], "platforms": ["cpu"]}}
    if job["do"] == "alone":
        return {"state": "pass", "checks": {LAW: [302, 1000, 0.2]}, "setup": None, "troubles": []}
    if job["do"] == "measure":
        return {"state": "pass", "times": {"compute": [0.01 + 1e-5 * (k % 7) for k in range(30)]}}
    if not group:
        return {"state": "not_run", "tasks": []}
    tasks = [{"name": "join", "state": "pass", "seconds": 1.0, "value": 1}]
    for task in job["tasks"]:
        value = [10, 10, 0.1] if task["method"] == "law" else {"wrong": [], "seconds": 0.1, "bytes": 1024}
        tasks.append({"name": task["name"], "state": "pass", "seconds": 0.1, "value": value})
    return {"state": "pass", "tasks": tasks}


def hello(process: int) -> Answer:
    facts = {"versions": {"jax": "0.10.2"}, "variables": {}, "drivers": {}, "machine": {}}
    return {"host": f"node{process}", "pid": process, "time": time.time(), "boot": str(process), **facts}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("POLL", 0.002), ("GRACE", 0.05), ("LOST", 60.0), ("SLACK", 60.0)):
        monkeypatch.setattr(jobs, name, value)


@pytest.fixture
def cluster() -> Iterator[Callable[..., Outcome]]:
    """Runs all phases with scripted agents: (processes, script, hellos, silent, wait) -> the outcome."""
    over = threading.Event()

    def ran(
        processes: int, script: Script = lambda *_: None, hellos: Callable[[int], Answer | None] = hello,
        silent: Callable[[Mapping[str, Any], int], bool] = lambda *_: False, launcher: str = "slurm",
    ) -> Outcome:  # fmt: skip
        shared = store.Store()
        about = Cluster(coordinator="node0:1", processes=processes, process=0, wait=1, launcher=launcher)

        def agent(process: int) -> None:
            number = 0
            while not over.is_set():
                job = shared.get(f"job/{number}", 0.02)
                shared.seen[process] = time.monotonic()
                if job is None:
                    continue
                if silent(job, process):
                    shared.seen[process] = -1e9
                    return
                group: list[int] = next((group for group in job["groups"] if process in group), [])
                answer = right(job, process, group) | (script(job, process, group) or {})
                shared.put({f"result/{number}/{process}": answer | {"done": True, "seconds": 1.0}})
                number += 1

        director = Director(about, SETTINGS, shared, lambda *_: None, lambda *_: None)
        for process in range(processes):
            if (greeting := hellos(process)) is not None:
                shared.put({f"hello/{process}": greeting})
                threading.Thread(target=agent, args=(process,), daemon=True).start()
        director.start()
        director.run_alone(Settings(level="quick", only=(LAW,)))
        pairs.run_pairs(director, about.pairs)
        together.run_together(director)
        return outcome.outcome_of(director, SETTINGS, 1.0)

    yield ran
    over.set()


def states(found: Outcome) -> list[str]:
    assert found.cluster is not None
    return [one["status"] for one in found.cluster["hosts"]]


def wrong(task: str, sender: int, receiver: int) -> Script:
    """Data of one collective is wrong from a process to another."""

    def script(job: Mapping[str, Any], process: int, group: list[int]) -> Answer | None:
        if process != receiver or sender not in group or len(group) != 2:
            return None
        answer = right(job, process, group)
        for one in answer["tasks"]:
            if task in one["name"]:
                one["value"]["wrong"] = [[sender, receiver, 0.1]]
        return answer

    return script


@pytest.mark.parametrize("processes", [2, 3, 4, 8])
def test_right_hosts_raise_no_alarm(cluster: Any, processes: int) -> None:
    found = cluster(processes)
    assert states(found) == ["pass"] * processes
    assert len(found.cluster["pairs"]) == processes * (processes - 1) // 2
    assert (found.cluster["bad_hosts"], found.cluster["bad_links"], found.cluster["exclude"]) == ([], [], "")
    assert found.troubles == found.wrong() == found.wrong_hosts() == []


def test_wrong_data_between_two_hosts_is_a_bad_link_with_its_direction_and_size(cluster: Any) -> None:
    found = cluster(4, wrong("4 MiB", 0, 2))
    assert found.cluster["bad_links"] == [[0, 2]]
    assert found.cluster["bad_hosts"] == []
    [pair] = [pair for pair in found.cluster["pairs"] if pair[2] != "pass"]
    assert pair[:3] == [0, 2, "fail"]
    assert pair[4] == "0>2 psum 4 MiB and 4 more"
    assert found.cluster["exclude"] == "srun --exclude=node2 sftref verify --distributed auto"
    assert judge(found).name == "NONCONFORMANT"
    # Without one end of the link, the others go on.
    assert [one["states"]["together"] for one in found.cluster["hosts"]] == ["pass", "pass", "not_run", "pass"]


def test_a_host_that_is_wrong_with_all_partners_is_bad(cluster: Any) -> None:
    def script(job: Mapping[str, Any], process: int, group: list[int]) -> Answer | None:
        others = [other for other in group if other != 2]
        return wrong("psum", 2, others[0])(job, process, group) if len(group) == 2 and 2 in group else None

    found = cluster(4, script)
    assert (found.cluster["bad_hosts"], found.cluster["bad_links"]) == ([2], [])
    assert "fails with each of its 2 partners: 2>" in found.cluster["hosts"][2]["message"]
    assert states(found) == ["pass", "pass", "fail", "pass"]


@pytest.mark.parametrize("phase", ["start", "alone", "measure", "group"])
def test_an_agent_that_falls_silent_is_named_with_its_phase_and_the_others_go_on(cluster: Any, phase: str) -> None:
    found = cluster(4, silent=lambda job, process: process == 1 and job["do"] == phase)
    named = {"measure": "alone", "group": "pairs"}.get(phase, phase)
    assert found.cluster["hosts"][1]["phase"] == named
    assert states(found) == ["pass", "lost", "pass", "pass"]
    assert (found.cluster["bad_hosts"], found.cluster["bad_links"]) == ([1], [])
    assert found.cluster["hosts"][0]["states"]["together"] == "pass"
    assert judge(found).exit_code == 3
    assert "process 1 (node1)" in judge(found).line


def test_a_host_that_never_comes_is_named_and_the_others_are_judged(cluster: Any) -> None:
    found = cluster(3, hellos=lambda process: None if process == 1 else hello(process))
    assert states(found) == ["pass", "absent", "pass"]
    assert "did not come within --wait 1 s" in judge(found).line
    assert judge(found).exit_code == 3
    assert found.cluster["hosts"][2]["states"]["together"] == "pass"


def hung(job: Mapping[str, Any], process: int, group: list[int]) -> Answer | None:
    """Process 3 hangs in every group, and its partners with it."""
    if 3 not in group:
        return None
    where = "sleep (a.py:1)" if process == 3 else "psum (b.py:2)"
    late = {"name": "psum 1 KiB", "state": "hang", "seconds": 1.0, "message": "no answer", "stack": [where]}
    tasks = [{"name": "join", "state": "pass", "seconds": 1.0, "value": 1}, late]
    return {"state": "hang", "message": "no answer within 1 s", "tasks": tasks, "stack": [where]}


def test_a_host_that_hangs_in_pairs_is_named_and_left_out_of_later_rounds(cluster: Any) -> None:
    found = cluster(6, hung)
    assert states(found) == ["pass", "pass", "pass", "hang", "pass", "pass"]
    assert found.cluster["bad_hosts"] == [3]
    assert sum(3 in pair[:2] for pair in found.cluster["pairs"]) == 2
    assert found.cluster["hosts"][3]["phase"] == "pairs"
    assert judge(found).exit_code == 3


def test_a_hang_of_all_hosts_together_is_blamed_on_the_one_with_another_stack(cluster: Any) -> None:
    found = cluster(4, lambda job, process, group: hung(job, process, group) if len(group) > 2 else None)
    assert states(found) == ["pass", "pass", "pass", "hang"]
    assert found.cluster["hosts"][3]["stack"] == ["sleep (a.py:1)"]
    # The others go on in a smaller group.
    assert found.cluster["hosts"][0]["states"]["together"] == "pass"


def test_a_pair_that_passes_when_repeated_is_still_named(cluster: Any) -> None:
    seen: list[int] = []

    def script(job: Mapping[str, Any], process: int, group: list[int]) -> Answer | None:
        if group == [0, 1] and seen.count(process) == 0:
            seen.append(process)
            return hung(job, process, [3])
        return None

    found = cluster(4, script)
    [pair] = [pair for pair in found.cluster["pairs"] if pair[2] != "pass"]
    assert pair[:3] == [0, 1, "hang"]
    assert pair[4].endswith("; passed when repeated")
    assert judge(found).exit_code == 3


def test_a_check_that_fails_on_one_host_is_the_result_of_the_run_and_names_the_host(cluster: Any) -> None:
    def script(job: Mapping[str, Any], process: int, group: list[int]) -> Answer | None:
        if job["do"] != "alone" or process != 2:
            return None
        failed = {
            "id": LAW, "law": LAW, "rung": 1, "subject": None, "status": "fail", "message": "3, should be 4",
            "comparisons": 1, "facts": {}, "seconds": 1.0,
        }  # fmt: skip
        return {"state": "pass", "checks": {LAW: failed}, "setup": None, "troubles": []}

    found = cluster(4, script)
    assert found.records[LAW].status == "fail"
    assert found.records[LAW].message == "process 2 (node2): 3, should be 4"
    assert found.cluster["hosts"][2]["checks"]["alone"] == {"fail": 1, "failed": [LAW]}
    assert judge(found).exit_code == 1
    assert "process 2" in found.cluster["exclude"] or "node2" in found.cluster["exclude"]


def test_another_version_is_a_finding_that_names_the_minority(cluster: Any) -> None:
    def hellos(process: int) -> Answer:
        return hello(process) | ({"versions": {"jax": "0.9.2"}} if process == 3 else {})

    found = cluster(4, hellos=hellos)
    assert states(found) == ["pass", "pass", "pass", "different"]
    assert "versions.jax: 0.9.2; most others: 0.10.2" in judge(found).line
    assert judge(found).exit_code == 1


def test_a_slow_host_is_named(cluster: Any) -> None:
    def script(job: Mapping[str, Any], process: int, group: list[int]) -> Answer | None:
        slow = {"compute": [0.0111 + 1e-5 * (k % 5) for k in range(30)]}
        return {"state": "pass", "times": slow} if job["do"] == "measure" and process == 1 else None

    found = cluster(4, script)
    assert [one["process"] for one in found.cluster["stragglers"]] == [1]
    assert states(found) == ["pass", "slow", "pass", "pass"]
    assert judge(found).exit_code == 1


def test_a_report_of_1024_hosts_is_small(cluster: Any, tmp_path: Path) -> None:
    found = cluster(4)
    one = found.cluster["hosts"][0] | {"message": "m" * 400, "stack": ["f" * 100] * 6}
    found.cluster |= {
        "processes": 1024, "hosts": [one | {"process": k, "host": f"node{k}"} for k in range(1024)],
        "pairs": [[a, b, "fail", 1.234, "w" * 150] for a in range(1024) for b in range(a + 1, a + 11) if b < 1024],
    }  # fmt: skip
    assert max(len(json.dumps(host)) for host in found.cluster["hosts"]) < 4096
    assert max(len(json.dumps(pair)) for pair in found.cluster["pairs"]) < 200
    report.write(tmp_path, found, judge(found))
    assert (tmp_path / "report.html").stat().st_size < 20e6


def test_the_run_ends_when_all_agents_have_left() -> None:
    shared = store.Store()
    one = jobs.Jobs(shared, SETTINGS, lambda _: None)
    one.publish("alone")
    threading.Timer(0.1, lambda: shared.put({"left/0": "end", "left/1": "end"})).start()
    began = time.monotonic()
    one.end([0, 1], {"line": "CONFORMANT"})
    assert time.monotonic() - began < 10
    # An agent that is still busy stops its job.
    assert shared.get("stop/0/1")
    assert shared.get("job/1")["line"] == "CONFORMANT"
    began = time.monotonic()
    one.end([0, 1, 2], {"line": ""}, seconds=0.1)
    assert time.monotonic() - began < 10


def test_each_host_runs_what_was_selected_of_rungs_0_to_5() -> None:
    assert run.lower(Settings(level="quick", only=("9", LAW))) == (LAW,)
    everything = run.lower(Settings(level="quick"))
    assert LAW in everything
    assert not [check for check in everything if check.startswith(("step.", "processes.", "equivalence."))]
