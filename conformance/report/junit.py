"""A run -> junit.xml, as CI systems read it: a suite for each line of the ladder, a case for each check."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as Xml

from ..core.result import printable
from ..judge.outcome import BROKEN, Outcome
from .checks import Check, failure

# Status -> the XML tag that a case gets; for a status that is missing here, the tag is `skipped`.
TAGS = {"pass": "", "fail": "failure", "error": "error", "hang": "error", "crash": "error"}


def junit(outcome: Outcome, checks: Sequence[Check]) -> str:
    """The file's text; checks that did not run, and known deviations, are skipped, with the reason."""
    top = Xml.Element("testsuites", name="sftref conformance")
    by_id = {check["id"]: check for check in checks}
    for group in outcome.groups():
        tags = Counter(TAGS.get(record.status, "skipped") for record in group.records)
        suite = Xml.SubElement(
            top, "testsuite", name=group.title, tests=str(len(group.records)), failures=str(tags["failure"]),
            errors=str(tags["error"]), skipped=str(tags["skipped"]), time=f"{group.seconds:.3f}",
            timestamp=outcome.started.strftime("%Y-%m-%dT%H:%M:%S"),
        )  # fmt: skip
        for record in group.records:
            _case(suite, by_id[record.id])
    if outcome.cluster:
        _cluster(top, outcome.cluster)
    Xml.indent(top)
    return Xml.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def _cluster(top: Xml.Element, cluster: Mapping[str, Any]) -> None:
    """A suite for the processes of a cluster, with a case for each of them and each phase."""
    cases = [(host, phase, host["states"].get(phase, "not_run"))
             for host in cluster["hosts"] for phase in cluster["phases"]]  # fmt: skip
    tags = Counter(TAGS.get(state, "skipped" if state == "not_run" else "error") for _, _, state in cases)
    suite = Xml.SubElement(
        top, "testsuite", name="cluster", tests=str(len(cases)), failures=str(tags["failure"]),
        errors=str(tags["error"]), skipped=str(tags["skipped"]),
    )  # fmt: skip
    for host, phase, state in cases:
        name = printable(f"process {host['process']} ({host['host']})")
        seconds = f"{host['seconds'].get(phase, 0.0):.3f}"
        case = Xml.SubElement(suite, "testcase", classname=f"sftref.cluster.{phase}", name=name, time=seconds)
        if state != "pass":
            tag = TAGS.get(state, "skipped" if state == "not_run" else "error")
            message = printable(host["message"] if host["phase"] == phase else "")
            Xml.SubElement(case, tag, message=f"{state}: {message}", type=state)


def _case(suite: Xml.Element, check: Check) -> None:
    module = f"sftref.{check['law'].partition('.')[0]}"
    case = Xml.SubElement(suite, "testcase", classname=module, name=check["id"], time=f"{check['seconds']:.3f}")
    status = check["status"]
    if status == "pass":
        return
    message = printable(f"{status}: {check['message']}")
    end = Xml.SubElement(case, TAGS.get(status, "skipped"), message=message, type=status)
    if status in BROKEN:
        end.text = printable("\n".join(failure(check)))
