"""An agent and a child that answers from a script: what counts as a result of a group's member."""

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from sftref.conformance.cluster.agent import Agent
from sftref.conformance.workers.channel import NoAnswer

pytestmark = pytest.mark.once
JOB = {
    "groups": [[0, 3]], "factory": "member:Member", "settings": {}, "join": 60,
    "tasks": [{"name": "psum 1 KiB", "method": "exchange", "arguments": ["psum", 1024], "seconds": 20.0}],
}  # fmt: skip
ENDS = {
    "an error": NoAnswer("JaxRuntimeError: UNAVAILABLE: Socket closed"),
    "an abort": NoAnswer("SIGABRT", code=-6),
    "a silence": NoAnswer("no answer within 60 s", silent=True),
}


def member(answers: dict[str, Any], written: list[str]) -> dict[str, Any]:
    """The result of process 3 whose child gives these answers to the calls of its methods, or 1."""
    child = SimpleNamespace(ask=lambda method, *_, **__: answers.get(method, 1))
    agent = Agent.__new__(Agent)
    agent.__dict__ |= {
        "me": 3, "address": "", "log": SimpleNamespace(write=written.append),
        "link": SimpleNamespace(job=0, check=None, ask=lambda *_, **__: "node0:1"),
        "_child": lambda *_: contextlib.nullcontext(child),
    }  # fmt: skip
    return agent._group(JOB)


@pytest.mark.parametrize("end", ENDS)
def test_how_a_member_leaves_is_no_result(end: str) -> None:
    """Seen with 16 processes on two busy cores: the first member, which serves JAX's store, was gone earlier."""
    written: list[str] = []
    found = member({"leave": ENDS[end]}, written)
    assert (found["state"], [task["name"] for task in found["tasks"]]) == ("pass", ["join", "psum 1 KiB"])
    assert written == [f"  all tasks ended; then: {ENDS[end].how}"]


@pytest.mark.parametrize(("end", "state"), [*zip(ENDS, ("error", "crash", "hang"), strict=True)])
def test_how_a_task_ends_is(end: str, state: str) -> None:
    found = member({"exchange": ENDS[end]}, [])
    assert (found["state"], found["message"]) == (state, ENDS[end].how)
