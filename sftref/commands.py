"""Parsed arguments -> what `sftref train` and `sftref evaluate` do."""

import dataclasses
import functools
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
from sftref.data.glue_metric import SecondScores
from sftref.data.tokens import Progress, definition
from sftref.model.pretrained import check_target, save_pretrained
from sftref.prepare import prepare
from sftref.presets import ARTICLE_BATCH_PER_DEVICE, make_config
from sftref.train import folder, inputs
from sftref.train.checkpoint import Checkpoints, latest
from sftref.train.folder import CONFIG
from sftref.train.loop import Run, fit
from sftref.train.loop import evaluate as evaluate_split
from sftref.train.records import Evaluation, RunRecorder, Screen, as_json, check_pictures, versions
from sftref.train.step import TrainState
from sftref.trainers import Trainer


def train(args: dict[str, Any], cache: Path | None, cluster: Cluster = devices.ALONE) -> None:
    """Run `sftref train`. All processes of a run call this alike; only process 0 writes records and models.

    Args:
        args: the arguments on the command line, by name.
        cache: the folder of token caches; None for no cache.
        cluster: how several processes find each other.

    Raises:
        ConfigError, OSError, ImportError, NonFiniteError, KeyboardInterrupt: see `cli.py`, which explains them.
    """
    resume = _resumed_folder(args)
    config = make_config(args, _saved_config(resume) if resume else None)
    used = devices.start(config, cluster)  # before Orbax, which would start JAX with another number of devices
    first = _announce(cluster)
    if args.get("preset") == "article" and "batch_size" not in args:
        size = ARTICLE_BATCH_PER_DEVICE * len(used)
        config = dataclasses.replace(config, batch_size=size, eval_batch_size=size)
    save: Path | None = args.get("save")
    out = resume or args.get("out")
    if resume is None and first:
        out = folder.new_folder(out, config, overwrite=args.get("overwrite", False))
    assert out is not None  # `cli.main` requires --out for several processes
    if first:
        check_pictures()
    if save is not None and first:
        check_target(save)
        folder.check_save(save, out)
    with folder.locked(out if first else None, "--out" if resume is None else "--resume"):
        _train(_prepare(config, used, cache), out, save, cluster, args.get("glue_metric"), resumed=resume is not None)


def _train(run: Run, out: Path, save: Path | None, cluster: Cluster, metric: Path | None, *, resumed: bool) -> None:
    """Train, with records in `out` and the model in `save`; process 0 holds the lock of `out`."""
    config, first = run.config, jax.process_index() == 0
    second = SecondScores(run.task, metric) if first else None
    state = run.program.state(run.model.params, config.seed)
    checkpoints = None
    if resumed:
        checkpoints = Checkpoints(out, must_exist=True)
        state = checkpoints.restore(state)
        inputs.compare(out, inputs.digests(run))
    elif first:
        folder.clear(out)
        inputs.record(out, inputs.digests(run))
    if cluster.several:  # here the others also wait until process 0 has cleared the folder
        agree(_inputs(run, int(state.step)))
    if checkpoints is None and config.save_every is not None:
        checkpoints = Checkpoints(out)
    if first:
        (out / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    _describe(run, out, int(state.step))
    began = time.perf_counter()
    with Screen(run.total_steps, config.epochs, int(state.step)) as screen:
        also = functools.partial(_compare_scores, run, second) if second else None
        recorder = RunRecorder(out if first else None, screen, int(state.step), also)
        several: dict[str, Any] = {}
        if cluster.several:
            several = {"deadline": cluster.wait, "compare": functools.partial(_agree_on_the_step, run.trainer)}
        try:
            state = fit(run, state, recorder, checkpoints, **several)
        finally:
            recorder.close()
            if checkpoints:
                checkpoints.close()
    if second is None:
        return
    summary = recorder.finish(config.to_dict(), run.trainer.devices, time.perf_counter() - began)
    if save is not None:
        _save(save, state, run, out)
    print(f"{summary['examples_per_second']:.1f} examples/s; records in {out}" + (f", model in {save}" if save else ""))
    recorder.draw()
    second.finish()


def _save(save: Path, state: TrainState, run: Run, out: Path) -> None:
    """Save the model; if that fails, keep the trained state as a checkpoint of the run."""
    model = run.model
    names: dict[str, Any] = {"label_names": run.task.label_names, "classes": model.classes}
    try:
        save_pretrained(save, state.params, model.config, run.tokenizer, model.hf_config, **names)
    except ConfigError as error:
        if latest(out) != int(state.step):
            try:
                Checkpoints(out).save(state)
            except ConfigError as second:
                raise ConfigError(f"{error}; {second}") from error
        raise ConfigError(f"{error}: sftref train --resume {out} --save FOLDER needs no training") from error


def evaluate(args: dict[str, Any], cache: Path | None, cluster: Cluster = devices.ALONE) -> None:
    """Run `sftref evaluate`: print scores; with `--out`, write `evaluation.json` and `predictions-SPLIT.jsonl`.

    Args and Raises: see `train`.
    """
    config = make_config(args)
    used = devices.start(config, cluster)
    first = _announce(cluster)
    out: Path | None = args.get("out") if first else None
    if out is not None:
        out = folder.new_folder(out, config, overwrite=args.get("overwrite", False))
    with folder.locked(out):
        _evaluate(_prepare(config, used, cache, train=False), out, cluster, args.get("glue_metric"))


def _evaluate(run: Run, out: Path | None, cluster: Cluster, metric: Path | None) -> None:
    config = run.config
    require(
        not any(name.startswith("classifier") for name in run.model.fresh),
        f"--model {config.model}: has no trained classifier for --task {config.task}; train one with --save DIR first",
    )
    if cluster.several:
        agree(_inputs(run, 0))
    state = run.trainer.place(run.program.state(run.model.params, config.seed))
    deadline = cluster.wait if cluster.several else None
    second = SecondScores(run.task, metric) if jax.process_index() == 0 else None
    results: dict[str, Any] = {}
    for name, tokens in run.validation.items():
        with _bar() as bar:
            advance = functools.partial(bar.advance, bar.add_task(f"evaluating {name}", total=len(tokens)))
            e = evaluate_split(run, state, name, progress=advance, deadline=deadline)
        scores = {"loss": e.loss, **e.metrics}
        results[name] = scores | {"examples": e.examples, "seconds": e.seconds}
        print(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()), flush=True)
        if second and (others := _compare_scores(run, second, e)):
            results[name]["evaluate"] = others
        if out is not None:
            with (out / f"predictions-{name}.jsonl").open("w", encoding="utf-8") as file:
                for example, logits in zip(tokens.example_ids.tolist(), e.logits.tolist(), strict=True):
                    file.write(as_json({"example_id": example, "logits": logits}) + "\n")
    if out is not None:
        content = {"results": results, "config": config.to_dict(), "versions": versions()}
        (out / "evaluation.json").write_text(as_json(content, indent=2) + "\n", encoding="utf-8")
    if second:
        second.finish()


def _compare_scores(run: Run, second: SecondScores, e: Evaluation) -> dict[str, float]:
    return second.check(e.split, e.metrics, e.logits, run.validation[e.split].labels)


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


def _saved_config(out: Path) -> TrainConfig:
    try:
        return TrainConfig.from_dict(json.loads((out / CONFIG).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(f"--resume {out}: has no {CONFIG}; give the --out of a run with --save-every") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"--resume {out}: {CONFIG} cannot be read ({one_line(error)}); start a new run") from error


def _bar() -> RichProgress:
    console = Console(stderr=True)
    return RichProgress(console=console, disable=not console.is_terminal, transient=True)


def _prepare(config: TrainConfig, used: list[jax.Device], cache: Path | None, *, train: bool = True) -> Run:
    with _bar() as bar:

        def progress(title: str) -> Progress:
            task = bar.add_task(title)
            return lambda done, total: bar.update(task, completed=done, total=total)

        return prepare(config, used, cache_dir=cache, progress=progress, train=train)


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
        markup=False,  # a path can have brackets
    )
