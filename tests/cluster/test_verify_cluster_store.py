"""The store that the processes of a run share, and the agents that use it."""

import socket
import threading
import time

import pytest
from sftref.conformance.cluster import agent, link, store
from sftref.conformance.cluster.options import Cluster
from sftref.conformance.workers.channel import free_port

pytestmark = pytest.mark.once


@pytest.fixture
def served() -> tuple[store.Store, store.Client]:
    shared = store.Store()
    server = store.Server(shared, 0)
    return shared, store.Client("localhost", server.port, 3)


def test_what_one_puts_another_gets(served: tuple[store.Store, store.Client]) -> None:
    shared, client = served
    big = "ü" * 2_000_000
    assert client.request({"a": [1, {"b": None}], "big": big}, get="a") == [1, {"b": None}]
    assert (client.request(get="big"), shared.get("a"), client.request(get="none")) == (big, [1, {"b": None}], None)
    assert time.monotonic() - shared.seen[3] < 10


def test_an_answer_is_held_back_until_the_key_is_set(served: tuple[store.Store, store.Client]) -> None:
    shared, client = served
    threading.Timer(0.2, lambda: shared.put({"late": 1})).start()
    began = time.monotonic()
    assert client.request(get="late", hold=5.0) == 1
    assert 0.1 < time.monotonic() - began < 4.0
    assert client.request(get="never", hold=0.1) is None


def test_a_server_that_is_gone_is_known_at_once() -> None:
    with pytest.raises(store.Gone) as gone:
        store.Client("localhost", free_port(), 0).request()
    assert gone.value.refused


def test_many_processes_wait_at_the_same_time(served: tuple[store.Store, store.Client]) -> None:
    shared, client = served
    got: list[int] = []
    clients = [store.Client("localhost", client.port, k) for k in range(64)]
    threads = [threading.Thread(target=lambda c=c: got.append(c.request(get="go", hold=5.0))) for c in clients]
    for thread in threads:
        thread.start()
    shared.put({"go": 7})
    for thread in threads:
        thread.join(20)
    assert got == [7] * 64


def cluster(port: int, process: int = 1, processes: int = 2, wait: int = 1) -> Cluster:
    return Cluster(coordinator=f"localhost:{port}", processes=processes, process=process, wait=wait)


def test_an_agent_without_process_0_ends_after_its_wait() -> None:
    with pytest.raises(store.Gone, match="was not there within --wait 1 s"):
        agent.Agent(cluster(free_port()), None).run()


def test_an_agent_whose_number_is_taken_or_whose_run_is_another_is_refused(
    served: tuple[store.Store, store.Client],
) -> None:
    shared, client = served
    shared.put({"run": {"processes": 2}, "hello/1": {"host": "a", "pid": 7}})
    with pytest.raises(ValueError, match=r"--process-id = 1: another process has this number \(a, pid 7\)"):
        agent.Agent(cluster(client.port), None).run()
    with pytest.raises(ValueError, match="--num-processes = 3, must be 2"):
        agent.Agent(cluster(client.port, processes=3), None).run()


def test_an_agent_that_loses_process_0_ends_within_seconds(
    served: tuple[store.Store, store.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "REFUSED", 0.3)
    lost = link.Link(store.Client("localhost", free_port(), 1))
    began = time.monotonic()
    with pytest.raises(store.Gone, match="no answer for"):
        lost.ask(get="job/0")
    with pytest.raises(store.Gone, match="no answer for"):
        lost.check()
    assert time.monotonic() - began < 5


def test_a_thread_shows_signs_of_life_and_notices_the_end_of_a_job(
    served: tuple[store.Store, store.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, client = served
    monkeypatch.setattr(link, "BEAT", 0.01)
    alive = link.Link(client)
    alive.job = 4
    alive.beat()
    alive.check()
    shared.put({"stop/4/3": True})
    until = time.monotonic() + 10
    while alive.stopped != 4 and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(link.Stop):
        alive.check()
    assert time.monotonic() - shared.seen[3] < 10
    alive.gone = store.Gone("over", refused=False)


def test_an_agent_reports_what_went_wrong_in_a_job_and_takes_the_next(
    served: tuple[store.Store, store.Client],
) -> None:
    shared, client = served
    shared.put({"run": {"processes": 2}, "job/0": {"do": "measure"}, "job/1": {"do": "end", "line": "CONFORMANT"}})
    assert agent.Agent(cluster(client.port), None).run() == {"do": "end", "line": "CONFORMANT"}
    assert shared.get("result/0/1")["state"] == "error"
    assert "KeyError" in shared.get("result/0/1")["message"]
    assert shared.get("hello/1")["host"] == socket.gethostname()
