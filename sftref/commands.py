"""Parsed arguments -> what `sftref train` and `sftref evaluate` do."""

import dataclasses
import functools
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress as RichProgress

from sftref.cluster import devices
from sftref.cluster.distributed import Cluster, agree, compiler_flags, digest
from sftref.cluster.supervise import JOINED
from sftref.config import ConfigError, TrainConfig, one_line, require
from sftref.data.batches import Batch
from sftref.data.tokens import Progress, definition
from sftref.model.pretrained import check_target, save_pretrained
from sftref.prepare import prepare
from sftref.presets import ARTICLE_BATCH_PER_DEVICE, make_config
from sftref.train.checkpoint import Checkpoints, latest
from sftref.train.loop import Run, fit
from sftref.train.loop import evaluate as evaluate_split
from sftref.train.records import RunRecorder, Screen, versions
from sftref.train.step import TrainState
from sftref.trainers import Trainer

CONFIG = "config.json"


def train(args: dict[str, Any], cache: Path, cluster: Cluster = devices.ALONE) -> None:
    """Run `sftref train`. All processes of a run call this alike; only process 0 writes records and models.

    Args:
        args: the arguments on the command line, by name.
        cache: the folder of token caches.
        cluster: how several processes find each other.

    Raises:
        ConfigError, OSError, ImportError, NonFiniteError, KeyboardInterrupt: see `cli.main`.
    """
    resume = _resumed_folder(args)
    config = make_config(args, _saved_config(resume) if resume else None)
    used = devices.start(config, cluster)  # before Orbax, which would start JAX with another number of devices
    first = _announce(cluster)
    if args.get("preset") == "article" and "batch_size" not in args:
        size = ARTICLE_BATCH_PER_DEVICE * len(used)
        config = dataclasses.replace(config, batch_size=size, eval_batch_size=size)
    save: Path | None = args.get("save")
    if save is not None and first:
        check_target(save)
    out = resume or args.get("out")
    if resume is None and first:
        out = _new_folder(out, config, overwrite=args.get("overwrite", False))
    assert out is not None  # `cli.main` requires --out for several processes
    run = _prepare(config, used, cache)
    state = run.program.state(run.model.params, config.seed)
    checkpoints = None
    if resume or config.save_every is not None:
        checkpoints = Checkpoints(out, must_exist=resume is not None)
        state = checkpoints.restore(state) if resume else state
    if cluster.several:
        agree(_inputs(run, int(state.step)))
    if first:
        (out / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    _describe(run, out, int(state.step))
    began = time.perf_counter()
    with Screen(run.total_steps, config.epochs, int(state.step)) as screen:
        recorder = RunRecorder(out if first else None, screen, int(state.step))
        several: dict[str, Any] = {}
        if cluster.several:
            several = {"deadline": cluster.wait, "compare": functools.partial(_agree_on_the_step, run.trainer)}
        try:
            state = fit(run, state, recorder, checkpoints, **several)
        finally:
            recorder.close()
            if checkpoints:
                checkpoints.close()
    if not first:
        return
    summary = recorder.finish(config.to_dict(), used, time.perf_counter() - began)
    if save is not None:
        names = run.task.label_names
        save_pretrained(save, state.params, run.model.config, run.tokenizer, run.model.hf_config, label_names=names)
    print(f"{summary['examples_per_second']:.1f} examples/s; records in {out}" + (f", model in {save}" if save else ""))


def evaluate(args: dict[str, Any], cache: Path, cluster: Cluster = devices.ALONE) -> None:
    """Run `sftref evaluate`: print scores; with `--out`, write `evaluation.json` and `predictions-SPLIT.jsonl`.

    Args and Raises: see `train`.
    """
    config = make_config(args)
    used = devices.start(config, cluster)
    first = _announce(cluster)
    out: Path | None = args.get("out") if first else None
    if out is not None:
        out = _new_folder(out, config, overwrite=args.get("overwrite", False))
    run = _prepare(config, used, cache)
    require(
        not any(name.startswith("classifier") for name in run.model.fresh),
        f"--model {config.model}: has no trained classifier for --task {config.task}; train one with --save DIR first",
    )
    if cluster.several:
        agree(_inputs(run, 0))
    state = run.trainer.place(run.program.state(run.model.params, config.seed))
    deadline = cluster.wait if cluster.several else None
    results = {}
    for name, tokens in run.validation.items():
        with _bar() as bar:
            advance = functools.partial(bar.advance, bar.add_task(f"evaluating {name}", total=len(tokens)))
            e = evaluate_split(run, state, name, progress=advance, deadline=deadline)
        scores = {"loss": e.loss, **e.metrics}
        results[name] = scores | {"examples": e.examples, "seconds": e.seconds}
        print(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()), flush=True)
        if out is not None:
            with (out / f"predictions-{name}.jsonl").open("w") as file:
                for example, logits in zip(tokens.example_ids.tolist(), e.logits.tolist(), strict=True):
                    file.write(json.dumps({"example_id": example, "logits": logits}) + "\n")
    if out is not None:
        content = {"results": results, "config": config.to_dict(), "versions": versions()}
        (out / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")


def _resumed_folder(args: dict[str, Any]) -> Path | None:
    """The folder of the run to resume, if any. `--resume auto` resumes --out if it has a checkpoint."""
    resume: Path | None = args.get("resume")
    if resume is None:
        return None
    require("preset" not in args, "--preset with --resume: a resumed run keeps its own settings; leave out --preset")
    if resume != Path("auto"):
        require("out" not in args, "--out with --resume: a resumed run writes to its own folder; leave out --out")
        return resume
    require("out" in args, "--resume auto: needs --out DIR, the folder of the run to resume or start")
    out: Path = args["out"]
    # Without a checkpoint the run starts from the beginning and may replace its records, unless it has finished.
    args["overwrite"] = args.get("overwrite", False) or not (out / "summary.json").exists()
    return out if latest(out) is not None else None


def _announce(cluster: Cluster) -> bool:
    """Tell the supervisor the number of this process, if there are several. Returns True in process 0."""
    if cluster.several:
        print(f"{JOINED}{jax.process_index()} of {jax.process_count()}", file=sys.stderr, flush=True)
    return jax.process_index() == 0


def _inputs(run: Run, step: int) -> dict[str, bytes]:
    """Name -> digest of each value that must be equal in all processes before the first step."""
    leaves = [digest(np.asarray(leaf)).hex() for leaf in jax.tree.leaves(run.model.params)]
    digests = {
        "the version of Python or a package": digest(versions()),
        "the configuration (an option or a preset)": digest(run.config.to_dict()),
        "XLA_FLAGS": digest(compiler_flags()),
        "the tokenizer": digest(definition(run.tokenizer)),
        "the model's parameters": digest(leaves),
        "the step to resume from": digest(step),
    }
    for name, tokens in {"training": run.train, **run.validation}.items():
        # The tokens themselves are left out: each process reads only those of its own rows.
        parts = [digest(values).hex() for values in (tokens.offsets, tokens.labels, tokens.example_ids)]
        digests[f"the {name} data (their lengths, labels or order)"] = digest(parts)
    return digests


def _agree_on_the_step(trainer: Trainer, state: TrainState, batch: Batch) -> None:
    """Compare the first batch's shape and the step's program across processes, before any of them runs the step."""
    agree(
        {
            "the shape of the first batch": digest([[str(leaf.dtype), list(leaf.shape)] for leaf in batch]),
            "the program of a step": digest(trainer.step_text(state, batch)),
        }
    )


def _saved_config(folder: Path) -> TrainConfig:
    try:
        return TrainConfig.from_dict(json.loads((folder / CONFIG).read_text()))
    except FileNotFoundError as error:
        raise ConfigError(f"--resume {folder}: has no {CONFIG}; give the --out of a run with --save-every") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"--resume {folder}: {CONFIG} cannot be read ({one_line(error)}); start a new run") from error


def _bar() -> RichProgress:
    console = Console(stderr=True)
    return RichProgress(console=console, disable=not console.is_terminal, transient=True)


def _prepare(config: TrainConfig, used: list[jax.Device], cache: Path) -> Run:
    with _bar() as bar:

        def progress(title: str) -> Progress:
            task = bar.add_task(title)
            return lambda done, total: bar.update(task, completed=done, total=total)

        return prepare(config, used, cache_dir=cache, progress=progress)


def _describe(run: Run, out: Path, step: int) -> None:
    c, model, used = run.config, run.model.config, run.trainer.devices
    fresh = f"; initialized: {', '.join(run.model.fresh)}" if run.model.fresh and c.model != "tiny" else ""
    steps = f"steps {step + 1} to {run.total_steps}" if step < run.total_steps else f"all {step} steps already done"
    evaluated = ", ".join(f"{len(tokens)} {name}" for name, tokens in run.validation.items())
    Console(stderr=True, soft_wrap=True).print(
        f"{c.task} ({c.data}): {len(run.train)} training examples, {evaluated}\n"
        f"{c.model}: {model.num_hidden_layers} layers, width {model.hidden_size}{fresh}\n"
        f"{c.trainer} on {len(used)} {used[0].platform} device(s), {c.precision}, dropout {c.dropout}, {steps}, "
        f"records in {out}",
        highlight=False,
    )


def _new_folder(out: Path | None, config: TrainConfig, *, overwrite: bool) -> Path:
    """Make a folder for the records of a new run, and check that it can be written.

    Raises:
        ConfigError: the folder has another run's records, is a file, or cannot be written.
    """
    if out is None:
        name = f"{config.task}-{config.trainer}"
        out = next(path for k in itertools.count(1) if not (path := Path("runs", f"{name}-{k}")).exists())
    require(not out.exists() or out.is_dir(), f"--out {out}: is a file, must be a folder; choose another name")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".sftref-probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); choose another folder") from error
    names = (CONFIG, "metrics.jsonl", "summary.json", "evaluation.json", "checkpoints")
    old = [name for name in names if (out / name).exists()]
    require(
        not old or overwrite,
        f"--out {out}: has {', '.join(old)} of an earlier run; choose another folder, or add --overwrite",
    )
    return out
