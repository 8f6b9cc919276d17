"""Processes -> rounds of disjoint pairs, each pair once; results of pairs -> bad hosts and bad links."""

import random
from collections import Counter
from collections.abc import Collection, Sequence

Pair = tuple[int, int]


def rounds(members: Sequence[int], most: int | None = None, seed: int = 0) -> list[list[Pair]]:
    """N members -> N - 1 rounds (N if N is odd) of disjoint pairs (a < b), in which each pair occurs once.

    The circle method: one member stays in place, the others move on by one place after each round
    (https://en.wikipedia.org/wiki/Round-robin_tournament#Circle_method).

    Args:
        members: the numbers of processes.
        most: at most this many rounds, drawn with `seed`; None takes all.
        seed: seed of the draw.
    """
    circle: list[int | None] = [*members, *([None] if len(members) % 2 else [])]
    half = len(circle) // 2
    every = []
    for _ in range(len(circle) - 1):
        facing = zip(circle[:half], reversed(circle[half:]), strict=True)
        every.append([(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    if most is None or most >= len(every):
        return every
    return [every[k] for k in sorted(random.Random(seed).sample(range(len(every)), most))]


def blamed(bad: Collection[Pair], good: Collection[Pair]) -> tuple[list[int], list[Pair]]:
    """Pairs that failed and pairs that passed -> bad hosts, and bad links between hosts that are not bad.

    A host is bad if it failed with two partners or more and passed with none; of such hosts, those with the most
    failures are named first, since their partners' failures with them say nothing about the partners. What is left are
    links. With two hosts a bad host cannot be told from a bad link, so it is a link.
    """
    passed = {host for pair in good for host in pair}
    hosts: list[int] = []
    left = set(bad)
    while True:
        counts = Counter(host for pair in left for host in pair if host not in passed)
        most = max(counts.values(), default=0)
        if most < 2:
            return sorted(hosts), sorted(left)
        worst = {host for host, count in counts.items() if count == most}
        hosts += worst
        left = {pair for pair in left if not worst & set(pair)}


def apart(links: Collection[Pair], bad: Collection[int] = ()) -> list[int]:
    """The hosts to leave out so that no bad link is left between the others, besides those that are bad themselves.

    Those with the most bad links come first; of equals, the one with the larger number, as process 0 writes the report.
    """
    left = [pair for pair in links if not set(bad) & set(pair)]
    hosts: list[int] = []
    while left:
        counts = Counter(host for pair in left for host in pair)
        worst = max(counts, key=lambda host: (counts[host], host))
        hosts.append(worst)
        left = [pair for pair in left if worst not in pair]
    return sorted(hosts)
