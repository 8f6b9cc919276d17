"""Parsed arguments -> what `sftref train` and `sftref evaluate` do."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress as RichProgress

from sftref.cluster import devices
from sftref.cluster.distributed import Cluster, agree, compiler_flags, digest
from sftref.cluster.supervise import JOINED
from sftref.config import ConfigError, TrainConfig, require
from sftref.data.batches import Batch
from sftref.data.tokens import Progress, definition
from sftref.model.pretrained import check_target, save_pretrained
from sftref.prepare import prepare
from sftref.presets import ARTICLE_BATCH_PER_DEVICE, make_config
from sftref.train.checkpoint import Checkpoints, latest
from sftref.train.loop import evaluate as evaluate_split
from sftref.train.loop import fit
from sftref.train.records import RunRecorder, Screen, versions
from sftref.train.run import Run
from sftref.train.step import TrainState
from sftref.trainers import Trainer

CONFIG = "config.json"


def train(given: dict[str, Any], cache: Path, cluster: Cluster = devices.ALONE) -> None:
    """`sftref train`, the same in each of several processes; the first of them writes.

    Raises:
        ConfigError, OSError, ImportError, loop.NonFiniteLossError, KeyboardInterrupt: see `cli.main`.
    """
    resume: Path | None = given.get("resume")
    require(
        not (resume and "preset" in given),
        "--preset with --resume: a resumed run keeps its own settings; leave --preset out",
    )
    automatic = resume == Path("auto")
    if automatic:
        require("out" in given, "--resume auto: needs --out DIR, which holds the run to go on with, or will")
        resume = given["out"] if latest(given["out"]) is not None else None
        # What came before the first checkpoint is done again; a run that came to its end is not.
        given["overwrite"] = given.get("overwrite", False) or not (given["out"] / "summary.json").exists()
    else:
        require(
            not (resume and "out" in given), "--out with --resume: a resumed run goes on in its own folder; leave out"
        )
    config = make_config(given, _saved_config(resume) if resume else None)
    found = devices.start(config, cluster)  # before Orbax, which would start JAX with its own number of devices
    first = _announce(cluster)
    if given.get("preset") == "article" and "batch_size" not in given:
        per_device = ARTICLE_BATCH_PER_DEVICE * len(found)
        config = dataclasses.replace(config, batch_size=per_device, eval_batch_size=per_device)
    save: Path | None = given.get("save")
    if save is not None and first:
        check_target(save)
    out = resume or given.get("out")
    if resume is None and first:
        out = _new_folder(out, config, overwrite=given.get("overwrite", False))
    assert out is not None  # of several processes: see `cli.main`
    run = _prepare(config, found, cache)
    state = run.program.state(run.model.params, config.seed)
    checkpoints = None
    if resume or config.save_every is not None:
        checkpoints = Checkpoints(out, must_exist=resume is not None)
    if checkpoints and resume:
        state = checkpoints.restore(state)
    if cluster.several:
        agree(_about(run, int(state.step)))
    if first:
        (out / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    _describe(run, out, int(state.step))
    began = time.perf_counter()
    with Screen(run.total_steps, config.epochs, int(state.step)) as screen:
        recorder = RunRecorder(out if first else None, screen, int(state.step))
        try:
            several: dict[str, Any] = {}
            if cluster.several:
                several = {"deadline": cluster.wait, "compare": functools.partial(_agree_on_the_step, run.trainer)}
            state = fit(run, state, recorder, checkpoints, **several)
        finally:
            recorder.close()
            if checkpoints:
                checkpoints.close()
    if not first:
        return
    summary = recorder.finish(config.to_dict(), found, time.perf_counter() - began)
    if save is not None:
        save_pretrained(
            save, state.params, run.model.config, run.tokenizer, run.model.hf_config, label_names=run.task.label_names
        )
    print(f"{summary['examples_per_second']:.1f} examples/s; records in {out}" + (f", model in {save}" if save else ""))


def evaluate(given: dict[str, Any], cache: Path, cluster: Cluster = devices.ALONE) -> None:
    """`sftref evaluate`: scores on stdout; with `--out`, `evaluation.json` and `predictions.jsonl` as well.

    Raises:
        ConfigError, OSError, ImportError, KeyboardInterrupt: see `cli.main`.
    """
    config = make_config(given)
    found = devices.start(config, cluster)
    first = _announce(cluster)
    out: Path | None = given.get("out") if first else None
    if out is not None:
        out = _new_folder(out, config, overwrite=given.get("overwrite", False))
    run = _prepare(config, found, cache)
    require(
        not any(name.startswith("classifier") for name in run.model.fresh),
        f"--model {config.model}: has no trained classifier for --task {config.task}; train one with --save DIR first",
    )
    if cluster.several:
        agree(_about(run, 0))
    state = run.trainer.place(run.program.state(run.model.params, config.seed))
    deadline = cluster.wait if cluster.several else None
    results = {}
    for name, tokens in run.validation.items():
        with RichProgress(console=Console(stderr=True), disable=not Console(stderr=True).is_terminal) as bar:
            task = bar.add_task(f"evaluating {name}", total=len(tokens))
            advance = functools.partial(bar.advance, task)
            e = evaluate_split(
                run.trainer, state, tokens, run.task, config, split=name, progress=advance, deadline=deadline
            )
        results[name] = {"loss": e.loss, **e.metrics, "examples": e.examples, "seconds": e.seconds}
        print(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in {"loss": e.loss, **e.metrics}.items()), flush=True)
        if out is not None:
            with (out / f"predictions-{name}.jsonl").open("w") as file:
                for example, logits in zip(tokens.example_ids.tolist(), e.logits.tolist(), strict=True):
                    file.write(json.dumps({"example_id": example, "logits": logits}) + "\n")
    if out is not None:
        content = {"results": results, "config": config.to_dict(), "versions": versions()}
        (out / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")


def _announce(cluster: Cluster) -> bool:
    """Say who this is, where there are several processes; whether it is the first, which writes."""
    import jax

    if cluster.several:
        print(f"{JOINED}{jax.process_index()} of {jax.process_count()}", file=sys.stderr, flush=True)
    return jax.process_index() == 0


def _about(run: Run, step: int) -> dict[str, bytes]:
    """What all processes must have in common before the first step."""
    import jax

    leaves = [digest(np.asarray(leaf)).hex() for leaf in jax.tree.leaves(run.model.params)]
    found = {
        "the version of Python or a package": digest(versions()),
        "the configuration (an option or a preset)": digest(run.config.to_dict()),
        "XLA_FLAGS": digest(compiler_flags()),
        "the tokenizer": digest(definition(run.tokenizer)),
        "the model's parameters": digest(leaves),
        "the step to go on from": digest(step),
    }
    for name, tokens in {"training": run.train, **run.validation}.items():
        # Not the tokens themselves: each process reads those of its own rows.
        parts = [digest(values).hex() for values in (tokens.offsets, tokens.labels, tokens.example_ids)]
        found[f"the {name} data (their lengths, labels or order)"] = digest(parts)
    return found


def _agree_on_the_step(trainer: Trainer, state: TrainState, batch: Batch) -> None:
    """Compare the first update: what XLA is about to compile, before anybody waits for anybody in it."""
    agree(
        {
            "the shape of the first batch": digest([[str(leaf.dtype), list(leaf.shape)] for leaf in batch]),
            "the program of a step": digest(trainer.step_text(state, batch)),
        }
    )


def _saved_config(folder: Path) -> TrainConfig:
    path = folder / CONFIG
    try:
        return TrainConfig.from_dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise ConfigError(f"--resume {folder}: has no {CONFIG}; give the --out of a run with --save-every") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"--resume {folder}: {CONFIG} cannot be read ({reason}); start a new run") from error


def _prepare(config: TrainConfig, found: list[Any], cache: Path) -> Run:
    console = Console(stderr=True)
    with RichProgress(console=console, disable=not console.is_terminal, transient=True) as bar:

        def progress(title: str) -> Progress:
            task = bar.add_task(title)
            return lambda done, total: bar.update(task, completed=done, total=total)

        return prepare(config, found, cache_dir=cache, progress=progress)


def _describe(run: Run, out: Path, step: int) -> None:
    c, model = run.config, run.model.config
    where = f"{len(run.trainer.devices)} {run.trainer.devices[0].platform} device(s)"
    fresh = f"; fresh: {', '.join(run.model.fresh)}" if run.model.fresh and c.model != "tiny" else ""
    steps = f"steps {step + 1} to {run.total_steps}" if step < run.total_steps else f"all {step} steps done before"
    Console(stderr=True, soft_wrap=True).print(
        f"{c.task} ({c.data}): {len(run.train)} training examples, "
        + ", ".join(f"{len(t)} {name}" for name, t in run.validation.items())
        + f"\n{c.model}: {model.num_hidden_layers} layers, width {model.hidden_size}{fresh}"
        + f"\n{c.trainer} on {where}, {c.precision}, dropout {c.dropout}, "
        + f"{steps}, records in {out}",
        highlight=False,
    )


def _new_folder(out: Path | None, config: TrainConfig, *, overwrite: bool) -> Path:
    """A folder for the records of a new run, made and proven writable.

    Raises:
        ConfigError: it holds another run, is a file, or cannot be written.
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
        f"--out {out}: holds the {', '.join(old)} of an earlier run; choose another folder, or add --overwrite",
    )
    return out
