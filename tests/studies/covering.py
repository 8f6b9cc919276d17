"""oracle/settings.py's settings -> conformance/oracle/settings.csv: covering arrays of strength two and three.

    uv run --with covertable==3.2.0 python tests/studies/covering.py

The array of pairs is for level `standard`, that of triples for `full`. covertable's result depends on a seed, so the
smallest array of several seeds is taken. At `quick` one row runs, which has what the other laws of that level leave
out: two labels, a limit in the middle of the norms, an epsilon that shows a gradient's scale, micro-batches with
dropout, packed rows, full batches, a number of devices that is no power of two.
"""

import csv
from pathlib import Path

import covertable
from sftref.conformance.oracle import settings

Rows = list[dict[str, str]]
TABLE = Path(settings.__file__).with_name("settings.csv")
SEEDS = 400
QUICK = settings.USUAL | {
    "labels": "2 labels", "clipping": "some updates clipped", "accumulation": "two micro-batches",
    "packing": "packed rows", "weights": "equal weights", "epsilon": "large epsilon",
    "rows": "full batches", "gradients": "updates only", "devices": "fewer devices",
}  # fmt: skip


def smallest(strength: int, seeds: int) -> Rows:
    """The smallest covering array that covertable makes with one of the seeds."""
    values = {setting: list(several) for setting, several in settings.VALUES.items()}
    return min((covertable.make(values, strength=strength, seed=str(seed)) for seed in range(seeds)), key=len)


def renamed(rows: Rows, first: dict[str, str]) -> Rows:
    """The rows with values of each setting exchanged so that the first row is `first`."""
    swaps = {name: {rows[0][name]: value, value: rows[0][name]} for name, value in first.items()}
    return [{name: swaps[name].get(value, value) for name, value in row.items()} for row in rows]


def main() -> None:
    """Write the table."""
    # Programs without dropout compile faster, so most rows have none; other rows have the pairs that the first one then
    # lacks (tests/oracle/test_settings.py).
    pairs, triples = renamed(smallest(2, SEEDS), QUICK | {"dropout": "no dropout"}), smallest(3, SEEDS // 8)
    pairs[0] = QUICK
    rows = [("quick" if row == QUICK else "standard", row) for row in pairs]
    rows += [("full", row) for row in triples if row not in pairs]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["level", *settings.VALUES], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"level": level, **row} for level, row in rows)


if __name__ == "__main__":
    main()
