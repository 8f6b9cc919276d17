"""The parts of a run on several hosts that need no process: pairs, blame, options, hosts and their differences."""

import itertools
from typing import Any

import pytest
from sftref.conformance.cluster import hosts, options, outcome, tournament


@pytest.mark.parametrize("n", range(2, 18))
def test_each_pair_plays_once_and_no_host_twice_in_a_round(n: int) -> None:
    members = [3 * k for k in range(n)]
    plan = tournament.rounds(members)
    assert sorted(itertools.chain(*plan)) == list(itertools.combinations(members, 2))
    assert len(plan) == n - 1 + n % 2
    for pairs in plan:
        players = list(itertools.chain(*pairs))
        assert len(set(players)) == len(players)


def test_a_sample_has_whole_rounds_and_depends_on_the_seed_only() -> None:
    plans = [tournament.rounds(range(16), 3, seed) for seed in range(5)]
    assert all(len(plan) == 3 and all(len(pairs) == 8 for pairs in plan) for plan in plans)
    assert tournament.rounds(range(16), 3, 2) == plans[2]
    assert len({str(plan) for plan in plans}) > 1


@pytest.mark.parametrize(
    ("bad", "bad_hosts", "bad_links"),
    [
        ([], [], []),
        ([(0, 1)], [], [(0, 1)]),
        ([(0, 2), (1, 2), (2, 3)], [2], []),
        ([(0, 2), (1, 2), (2, 3), (0, 3), (1, 3)], [2, 3], []),
        ([(0, 1), (0, 2)], [], [(0, 1), (0, 2)]),
        ([(0, 1), (2, 3)], [], [(0, 1), (2, 3)]),
        (list(itertools.combinations(range(4), 2)), [0, 1, 2, 3], []),
    ],
)
def test_a_host_that_fails_with_all_is_bad_and_a_link_otherwise(bad: Any, bad_hosts: Any, bad_links: Any) -> None:
    good = [pair for pair in itertools.combinations(range(4), 2) if pair not in bad]
    assert tournament.blamed(bad, good) == (bad_hosts, bad_links)


def test_every_single_bad_host_or_link_of_16_is_named() -> None:
    pairs = list(itertools.combinations(range(16), 2))
    for host in range(16):
        bad = [pair for pair in pairs if host in pair]
        assert tournament.blamed(bad, [pair for pair in pairs if pair not in bad]) == ([host], [])
    for link in pairs:
        assert tournament.blamed([link], [pair for pair in pairs if pair != link]) == ([], [link])


@pytest.mark.parametrize(
    ("links", "bad", "left_out"),
    [
        ([], [], []),
        ([(0, 1)], [], [1]),
        ([(0, 1), (0, 2)], [], [0]),
        ([(0, 1), (2, 3)], [], [1, 3]),
        ([(0, 1), (2, 3)], [0], [3]),
    ],
)
def test_few_hosts_are_left_out_for_bad_links(links: Any, bad: Any, left_out: Any) -> None:
    assert tournament.apart(links, bad) == left_out


@pytest.mark.parametrize(
    ("launcher", "left_out", "words"),
    [
        ("slurm", [2, 3], "srun --exclude=b sftref verify --distributed auto"),
        ("openmpi", [2, 3], "mpirun --host a,c -n 3 sftref verify --distributed auto"),
        ("kubernetes", [4], "kubectl cordon c"),
        ("options", [4], "--num-processes 4, without process 4 on c"),
        ("slurm", [], ""),
    ],
)
def test_the_launcher_is_told_how_to_leave_a_host_out(launcher: str, left_out: Any, words: str) -> None:
    about = options.Cluster(coordinator="a:1", processes=5, process=0, launcher=launcher)
    several = [hosts.Host(k, name) for k, name in enumerate("aabbc")]
    assert outcome.exclude(about, several, left_out) == words


def of(process: int, versions: dict[str, str], offset: float = 0.0, **variables: str) -> hosts.Host:
    facts = {"versions": versions, "variables": variables, "drivers": {}, "offset": offset}
    return hosts.Host(process, f"node{process}", facts)


def test_what_differs_is_named_with_the_hosts_in_the_minority() -> None:
    usual = {"jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.3.0"}
    several = [of(0, usual), of(1, usual, XLA_FLAGS="--a"), of(2, usual | {"jaxlib": "0.9.2"}), of(3, usual, 60.0)]
    found = {one["name"]: one for one in hosts.differences(several)}
    assert {name: (hosts.minority(one), one["level"]) for name, one in found.items()} == {
        "versions.jaxlib": ([2], "broken"), "variables.XLA_FLAGS": ([1], "broken"), "clock": ([3], "warning"),
    }  # fmt: skip
    assert found["versions.jaxlib"]["values"][0] == {"value": "0.10.2", "processes": "0-1,3"}


def test_hosts_that_are_alike_or_differ_in_their_own_variables_only_are_no_difference() -> None:
    usual = {"jax": "0.10.2"}
    assert hosts.differences([of(k, usual, 0.3, CUDA_VISIBLE_DEVICES=str(k)) for k in range(4)]) == []


def test_two_equally_frequent_values_have_no_minority() -> None:
    several = [of(0, {"jax": "1"}), of(1, {"jax": "2"})]
    assert [hosts.minority(one) for one in hosts.differences(several)] == [[]]


@pytest.mark.parametrize("several", [[], [0], [0, 1, 2, 5, 7, 8], list(range(1024))])
def test_ranges_of_processes_are_short_and_read_back(several: list[int]) -> None:
    assert hosts.numbers(hosts.ranges(several)) == several
    assert hosts.ranges(range(1024)) == "0-1023"


THREE = {"coordinator": "node0:7777", "num_processes": 4, "process_id": 3}


@pytest.mark.parametrize(
    ("args", "variables", "words"),
    [
        ({"coordinator": "node0:7777"}, {}, "--coordinator without --num-processes and --process-id"),
        (THREE | {"distributed": "auto"}, {}, "give one or the other"),
        (THREE | {"coordinator": "node0"}, {}, "must be HOST:PORT"),
        (THREE | {"process_id": 4}, {}, "--process-id = 4, must be 0 to 3"),
        (THREE | {"num_processes": 1, "process_id": 0}, {}, "--num-processes = 1, must be at least 2"),
        (THREE | {"pairs": 0}, {}, "--pairs = 0, must be at least 1"),
        ({"pairs": 2}, {}, "--pairs needs several processes"),
        ({}, {"SFTREF_COORDINATOR": "a:1", "SFTREF_NUM_PROCESSES": "x"}, "SFTREF_NUM_PROCESSES = 'x', must be a whole"),
        ({}, {"SFTREF_DISTRIBUTED": "yes"}, "SFTREF_DISTRIBUTED = 'yes', must be auto"),
    ],
)
def test_options_that_describe_no_cluster_are_refused(args: Any, variables: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        options.cluster_of(args, variables)


def test_options_and_variables_describe_a_cluster() -> None:
    assert options.cluster_of({}, {}) is None
    cluster = options.cluster_of(THREE | {"pairs": 2}, {"SFTREF_WAIT": "60"})
    assert cluster == options.Cluster(coordinator="node0:7777", processes=4, process=3, wait=60, pairs=2)
    assert (cluster.host, cluster.port) == ("node0", 7777)
    ipv6 = options.cluster_of(THREE | {"coordinator": "[fe80::1]:7777"}, {})
    assert ipv6 is not None
    assert (ipv6.host, ipv6.port) == ("fe80::1", 7777)


def test_auto_takes_the_values_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {
        "SLURM_JOB_ID": "1234", "SLURM_STEP_NODELIST": "node[07-10]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "4",
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    cluster = options.cluster_of({"distributed": "auto"}, slurm)
    assert cluster is not None
    assert (cluster.host, cluster.processes, cluster.process, cluster.launcher) == ("node07", 4, 2, "slurm")
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(ValueError, match="JAX finds no cluster"):
        options.cluster_of({"distributed": "auto"}, {})
