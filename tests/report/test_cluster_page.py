"""The page of a cluster: small for 1,024 hosts, and every wrong host, link and difference is in it."""

import json
import random
import re
import time
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from jsonschema import ValidationError, validate
from sftref.conformance.report.cluster import FEW, sections
from sftref.conformance.report.junit import junit
from sftref.conformance.report.page import markdown, page
from test_page import Reader, content
from test_report import NASTY, SCHEMA, made

PHASES = ["start", "alone", "pairs", "together"]


def host(process: int, **changes: Any) -> dict[str, Any]:
    """A host that passed."""
    seconds = {"start": 1.0, "alone": 38.0 + process % 3, "pairs": 12.0, "together": 20.0}
    return {
        "process": process, "host": f"node{process}", "devices": 8, "kind": "NVIDIA H100", "status": "pass",
        "phase": None, "states": dict.fromkeys(PHASES, "pass"), "message": "", "stack": [], "seconds": seconds,
        "checks": {"alone": {"pass": 30, "fail": 0, "failed": []}}, "environment": "1f2e3d4c5b6a", **changes,
    }  # fmt: skip


def cluster(processes: int, each: int, **changes: Any) -> dict[str, Any]:
    """A cluster in which everything passed, with about `each` partners for every process."""
    drawn = random.Random(23)
    pairs = [[a, b, "pass", 3.0, ""] for a in range(processes) for b in range(a + 1, processes)]
    pairs = sorted(drawn.sample(pairs, min(len(pairs), each * processes // 2)))
    return {
        "processes": processes, "launcher": "slurm", "phases": PHASES, "seconds": dict.fromkeys(PHASES, 20.0),
        "hosts": [host(process) for process in range(processes)], "pairs": pairs, "differences": [],
        "stragglers": [], "times": {"compute": [[0.1, 0.099, 0.102]] * processes}, "bad_hosts": [], "bad_links": [],
        "exclude": "", **changes,
    }  # fmt: skip


def shown(made_cluster: dict[str, Any]) -> tuple[str, str]:
    """The HTML and the Markdown of the cluster's sections."""
    parts = sections(made_cluster)
    return "\n".join(part.html() for part in parts), "\n\n".join(part.markdown() for part in parts)


@pytest.mark.parametrize("processes", [4, FEW + 1])
def test_what_is_wrong_is_in_both_formats(processes: int) -> None:
    changes: dict[str, Any] = {
        "status": "hang", "phase": "alone", "states": dict.fromkeys(PHASES, "not_run") | {"alone": "hang"},
        "message": "hung in alone for 60 s", "stack": ["psum (lax.py:1)"],
    }  # fmt: skip
    made_cluster = cluster(processes, processes, bad_hosts=[2], bad_links=[[0, 3]], exclude="srun --exclude=node2 x")
    made_cluster["hosts"][2] = host(2, **changes)
    made_cluster["pairs"][0] = [0, 3, "fail", 3.0, "3>0 all-reduce 4 MiB"]
    values = [{"value": "0.10.2", "processes": "0-2"}, {"value": "0.9.2", "processes": "3"}]
    made_cluster["differences"] = [{"name": "versions.jaxlib", "values": values, "level": "broken"}]
    slow = {"process": 1, "host": "node1", "what": "compute", "ratio": 1.1, "low": 1.08, "high": 1.12, "samples": 90}
    made_cluster["stragglers"] = [slow]
    for text in shown(made_cluster):
        for fact in ("hung in alone for 60 s", "psum (lax.py:1)", "all-reduce 4 MiB", "srun --exclude=node2 x",
                     "versions.jaxlib", "0.9.2 (processes 3)", "1.080 to 1.120", "node2"):  # fmt: skip
            assert fact in text.replace("&gt;", ">").replace("\\", "")


def test_a_link_that_is_wrong_in_one_direction_has_one_red_cell() -> None:
    """Rows send, columns receive."""
    for what, red in (("2>0 psum 4 MiB", 1), ("hang in psum 1 KiB", 2)):
        made_cluster = cluster(4, 4, pairs=[[0, 1, "pass", 3.0, ""], [0, 2, "fail", 3.0, what]])
        text, _ = shown(made_cluster)
        [path] = re.findall(r'<path d="([^"]+)" fill="var\(--bad\)"', text)
        assert path.count("M") == red
    # Row 2, column 0, in a matrix whose labels take 24 pixels and whose cells take 24.
    assert "M24 72h" in shown(cluster(4, 4, pairs=[[0, 2, "fail", 3.0, "2>0 psum 4 MiB"]]))[0]


def test_a_slow_phase_is_darker() -> None:
    made_cluster = cluster(4, 4)
    made_cluster["hosts"][3]["seconds"]["alone"] = 100.0
    text, _ = shown(made_cluster)
    assert len(re.findall(r'fill="var\(--good\)" opacity="1"', text)) == 1


def test_1024_hosts_give_a_report_that_opens() -> None:
    """At most 4 KB for a host and 200 bytes for a pair, and a page of at most 1 MB, written in seconds."""
    processes, each = 1024, 16
    made_cluster = cluster(processes, each)
    for process in range(0, processes, 10):
        made_cluster["hosts"][process] |= {"status": "fail", "message": "x" * 400, "stack": ["y" * 100] * 6}
        made_cluster["hosts"][process]["states"] = dict.fromkeys(PHASES, "fail")
    made_cluster["pairs"] = [[*pair[:2], "fail", 3.25, f"{pair[0]}>{pair[1]} reduce-scatter 16 MiB"]
                             for pair in made_cluster["pairs"]]  # fmt: skip
    assert max(len(json.dumps(one, indent=1)) for one in made_cluster["hosts"]) <= 4096
    assert max(len(json.dumps(pair, indent=1)) for pair in made_cluster["pairs"]) <= 200
    report = content(made(("pass",))) | {"cluster": made_cluster}
    began = time.process_time()
    text = page(report)
    assert time.process_time() - began < 5.0
    assert len(text) < 1_000_000
    assert len(json.dumps(report, indent=1)) < processes * 4096 + len(made_cluster["pairs"]) * 200
    assert not Reader(text).open
    assert "And 3 more" in text


@pytest.mark.slow
def test_all_pairs_of_1024_hosts_give_a_page_that_opens() -> None:
    """523,776 pairs: the matrix has a cell for many of them, and the JSON file at most 200 bytes for each."""
    made_cluster = cluster(1024, 16)
    made_cluster["pairs"] = [[a, b, "pass", 1.234, ""] for a in range(1024) for b in range(a + 1, 1024)]
    report = content(made(("pass",))) | {"cluster": made_cluster}
    began = time.process_time()
    text = page(report)
    assert time.process_time() - began < 10.0
    assert len(text) < 1_000_000
    assert "523,776 of 523,776 pairs" in text
    assert len(json.dumps(report, indent=1)) < 1024 * 4096 + 523_776 * 200


def test_any_text_is_well_formed() -> None:
    made_cluster = cluster(3, 3, exclude=NASTY)
    made_cluster["hosts"][1] |= {"host": NASTY, "kind": NASTY, "message": NASTY, "status": "error", "stack": [NASTY]}
    made_cluster["differences"] = [{"name": NASTY, "values": [{"value": NASTY, "processes": "0"}], "level": "warning"}]
    made_cluster["pairs"][0] = [0, 1, "error", 1.0, NASTY]
    report = content(made(("pass",))) | {"cluster": made_cluster}
    assert not Reader(page(report)).open
    assert "## Pairs of processes" in markdown(report)


def test_the_schema_and_junit_have_it() -> None:
    made_cluster = cluster(3, 3)
    made_cluster["hosts"][2] |= {"status": "hang", "phase": "pairs", "message": "hung <&"}
    made_cluster["hosts"][2]["states"] = made_cluster["hosts"][2]["states"] | {"pairs": "hang", "together": "not_run"}
    outcome = made(("pass",), cluster=made_cluster)
    report = content(outcome)
    assert report["cluster"] == made_cluster
    validate(report, SCHEMA)
    with pytest.raises(ValidationError):
        validate(report | {"cluster": made_cluster | {"pairs": [[0, 1, "passed", 1.0, ""]]}}, SCHEMA)
    suite = Xml.fromstring(junit(outcome, report["checks"])).find("testsuite[@name='cluster']")
    assert suite is not None
    assert dict(suite.attrib) == {"name": "cluster", "tests": "12", "failures": "0", "errors": "1", "skipped": "1"}
    [error] = suite.iter("error")
    assert error.get("message") == "hang: hung <&"


def test_a_run_without_a_cluster_has_no_such_section() -> None:
    assert "Pairs of processes" not in page(content(made(("pass",))))
    assert "Pairs of processes" not in page(content(made(("pass",))) | {"cluster": None})
