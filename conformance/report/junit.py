"""A run -> junit.xml, as CI systems read it: a suite for each rung, a case for each check."""

from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

from ..core.result import Result
from ..judge.outcome import BROKEN, Outcome
from .terminal import failure

# What XML 1.0 cannot hold.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
TAGS = {"fail": "failure", "error": "error", "hang": "error", "crash": "error"}


def junit(outcome: Outcome) -> str:
    """The file's text. What did not run, and what is a known deviation, reads skipped, with its reason."""
    top = Xml.Element("testsuites", name="sftref conformance")
    for group in outcome.groups():
        name = f"{group.rung} {group.name}" + (f" [{group.subject}]" if group.subject else "")
        suite = Xml.SubElement(
            top,
            "testsuite",
            name=name,
            tests=str(len(group.records)),
            failures=str(group.count("fail")),
            errors=str(group.count("error", "hang", "crash")),
            skipped=str(group.count("blocked", "not_run", "deviation")),
            time=f"{group.seconds:.3f}",
            timestamp=outcome.started.strftime("%Y-%m-%dT%H:%M:%S"),
        )
        for record in group.records:
            _case(suite, record)
    Xml.indent(top)
    return Xml.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: Xml.Element, record: Result) -> None:
    where = f"sftref.{record.law.partition('.')[0]}"
    case = Xml.SubElement(suite, "testcase", classname=where, name=record.id, time=f"{record.seconds:.3f}")
    if record.status == "pass":
        return
    tag = TAGS.get(record.status, "skipped")
    said = Xml.SubElement(case, tag, message=_clean(f"{record.status}: {record.message}"), type=record.status)
    if record.status in BROKEN:
        said.text = _clean("\n".join(failure(record)))


def _clean(text: str) -> str:
    return FORBIDDEN.sub("?", text)
