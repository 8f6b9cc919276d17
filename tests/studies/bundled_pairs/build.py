"""Four packages of Bible translations -> train.parquet, validation.parquet and stats.json of the bundled data set."""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bundled_pairs import sources
from sftref.data import bundled

EXAMPLES = """examples, in a clone, with PYTHONPATH=tests/studies:
  python -m bundled_pairs.build                    rebuild the files in sftref/data/bundled (2 to 4 minutes, 3 GB)
  python -m bundled_pairs.build --out /tmp/new     write them elsewhere, to compare
  python -m bundled_pairs.build --seed 1 --out /tmp/other   other pairs by the same rules
"""

Texts = Mapping[str, Mapping[int, str]]
Row = dict[str, Any]


def build(seed: int) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """The rows of both splits and their statistics.

    Raises:
        SourceError: a source package is missing or is not the pinned one.
        ModuleNotFoundError: a package that is not a source is missing.
    """
    import numpy as np

    from bundled_pairs import baselines, candidates, matching, pool

    print("reading four translations", flush=True)
    texts, titles = sources.read_all()
    print("comparing the verses of each book", flush=True)
    corpus = candidates.Corpus(texts)
    choice = pool.build(list(candidates.enumerate_pairs(corpus).values()), corpus, seed)
    print("matching the classes", flush=True)
    # A second judge learns from pairs that the first judge cannot tell apart. Then training pairs are chosen that
    # neither judge can tell apart.
    trial = np.array(matching.select("train", choice, seed, balance=False)).ravel()
    train = matching.select("train", pool.judge(choice, trial), seed, balance=True)
    # Validation pairs are chosen that a judge trained on the training pairs cannot tell apart.
    validation = matching.select("validation", pool.judge(choice, np.array(train).ravel()), seed, balance=True)
    splits = {
        name: rows(matching.name_pairs(couples, choice, corpus, seed), texts, titles)
        for name, couples in (("train", train), ("validation", validation))
    }
    print("scoring models that use words only", flush=True)
    stats = {"seed": seed, **baselines.measure(splits)}
    return splits, stats


def rows(pairs: Sequence[Any], texts: Texts, titles: Mapping[int, str]) -> list[Row]:
    """The rows of one split, in order."""
    return [
        {
            "question1": texts[pair.first[0]][pair.first[1]],
            "question2": texts[pair.second[0]][pair.second[1]],
            "label": pair.label,
            "idx": number,
            "source1": f"{pair.first[0]} {sources.reference(pair.first[1], titles)}",
            "source2": f"{pair.second[0]} {sources.reference(pair.second[1], titles)}",
        }
        for number, pair in enumerate(pairs)
    ]


def write(splits: Mapping[str, Sequence[Mapping[str, Any]]], stats: Mapping[str, Any], out: pathlib.Path) -> None:
    """Write the Parquet files and the statistics."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.int32()
    schema = pa.schema(
        {"question1": text, "question2": text, "label": number, "idx": number, "source1": text, "source2": text}
    )
    out.mkdir(parents=True, exist_ok=True)
    for name, data in splits.items():
        target = out / f"{name}.parquet"
        table = pa.Table.from_pylist(list(data), schema=schema)
        pq.write_table(table, target, compression="zstd", compression_level=19)
        print(f"wrote {target}: {len(data)} pairs, {target.stat().st_size:,} bytes", flush=True)
    (out / "stats.json").write_text(json.dumps(stats, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bundled_pairs.build",
        description="Rebuild the bundled paraphrase pairs from the four packages of Bible translations.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shipped = bundled.path("train").parent
    parser.add_argument("--out", type=pathlib.Path, default=shipped, help="folder to write to (default: the package)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: 0, as shipped)")
    options = parser.parse_args(arguments)
    try:
        splits, stats = build(options.seed)
    except ModuleNotFoundError as error:
        print(f"package {error.name} is missing; install it with: {sources.INSTALL}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # SourceError
        print(error, file=sys.stderr)
        return 2
    write(splits, stats, options.out)
    for name, score in stats["validation_accuracy"].items():
        print(f"  {name:36s} {score:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
