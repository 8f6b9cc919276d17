"""The command `sftref`: arguments -> a run; a user's mistake -> one line on stderr and an exit code.

Exit codes of `train` and `evaluate`: 0 done; 1 a loss or a logit is not finite, or a score is not that of the package
evaluate; 2 something that the user can fix; 3 one of several processes was lost; 130 Ctrl-C. `conformance/cli.py` has
the exit codes of the kit's commands.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sftref import __version__
from sftref.cluster import programs, supervise
from sftref.cluster.distributed import WAIT, Cluster
from sftref.config import (
    DROPOUT_MODES,
    PRECISIONS,
    TRAINERS,
    ConfigError,
    NonFiniteError,
    OptimConfig,
    ScoreError,
    TrainConfig,
    one_line,
    require,
)
from sftref.conformance import cli as kit
from sftref.conformance.core.output import Parser, path, utf8
from sftref.conformance.run import surroundings
from sftref.train import interrupt

INTERRUPTED = "interrupted; a run with --save-every continues with --resume DIR"

EXAMPLES = """examples:
  sftref train                                     the bundled pairs, the demo model, the mesh trainer, all devices
  sftref train --trainer pmap --devices 4 --epochs 1 --out runs/pmap
  sftref train --task mrpc --data hub --model bert-base-cased
  sftref train --task sst2 --data my/folder --model my/bert --save my/finetuned
  sftref train --preset article                    the article's run, from the hub
  sftref train --mesh data=2,fsdp=2,tensor=2 --remat   a model that does not fit on one device
  sftref train --out runs/a --save-every 50        then, after an interruption:
  sftref train --resume runs/a --devices 3

several processes, each running the same command, with a folder that all of them can write to:
  srun   sftref train --distributed auto --out runs/a --save-every 50 --resume auto
  mpirun sftref train --distributed auto --out runs/a
  sftref train --coordinator host0:7777 --num-processes 2 --process-id 0 --out runs/a  (other host: --process-id 1)
"""
EVALUATE_EXAMPLES = """examples:
  sftref evaluate --model my/finetuned             on the bundled validation pairs
  sftref evaluate --model my/finetuned --task sst2 --data my/folder --out scores
  sftref train --resume runs/a --save my/finetuned saves the model of a run with checkpoints
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. Options that are not given are absent from its result, so presets can set them."""
    top = Parser(prog="sftref", description="Data-parallel BERT fine-tuning in JAX, as a reference.")
    top.add_argument("--version", action="version", version=f"sftref {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="|".join(("train", "evaluate", *kit.COMMANDS)))
    style: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "argument_default": argparse.SUPPRESS}
    train = commands.add_parser("train", help="fine-tune a BERT", epilog=EXAMPLES, **style)
    evaluate = commands.add_parser("evaluate", help="evaluate a fine-tuned BERT", epilog=EVALUATE_EXAMPLES, **style)
    for command in (train, evaluate):
        _shared_options(command)
    _train_options(train)
    kit.add_commands(commands)
    return top


def _shared_options(p: argparse.ArgumentParser) -> None:
    default = TrainConfig()
    p.add_argument("--task", help=f"GLUE task, whose columns --data must have (default {default.task})")
    p.add_argument(
        "--data", type=utf8, help="bundled, hub, or a folder with train.* and validation.* (default: bundled)"
    )
    p.add_argument("--model", type=utf8, help="demo, tiny, a folder, or a model's id on the hub (default demo)")
    p.add_argument("--num-layers", type=int, help="keep the model's first layers only")
    p.add_argument("--trainer", choices=TRAINERS, help=f"default {default.trainer}")
    p.add_argument("--devices", type=int, metavar="N", help="default: all; on a CPU-only machine one a core, 2 to 8")
    p.add_argument("--mesh", metavar="AXES", help="data=2,fsdp=2,tensor=2 shards the model too (default: data only)")
    p.add_argument("--eval-batch-size", type=int, help=f"examples over all devices (default {default.eval_batch_size})")
    p.add_argument("--max-length", type=int, help=f"most tokens in an example (default {default.max_length})")
    p.add_argument("--precision", choices=PRECISIONS, help=f"default {default.precision}")
    p.add_argument("--pack", action=argparse.BooleanOptionalAction, help="several examples per row (default --pack)")
    p.add_argument("--seed", type=int, help=f"default {default.seed}")
    p.add_argument("--train-fraction", type=float, help="share of the training data to train on, drawn with --seed")
    p.add_argument("--eval-fraction", type=float, help="share of the evaluation data to use, drawn with --seed")
    p.add_argument("--eval-from", choices=("validation", "train"), help="train: rows that are not for training")
    p.add_argument(
        "--glue-metric", type=path, metavar="DIR", help="a folder glue with glue.py, for the package evaluate"
    )
    p.add_argument("--out", type=path, metavar="DIR", help="folder of the records (train: default runs/TASK-TRAINER-N)")
    p.add_argument("--overwrite", action="store_true", help="let --out replace the records of an earlier run")
    p.add_argument(
        "--program-cache",
        action=argparse.BooleanOptionalAction,
        help="keep compiled programs (default, on one process)",
    )
    p.add_argument("--preallocate", action="store_true", help="let JAX reserve most of the accelerator's memory")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    several = p.add_argument_group("several processes", "each option can also be set by a variable such as SFTREF_WAIT")
    several.add_argument(
        "--distributed", choices=("auto",), help="get the next three from Slurm, Open MPI, Kubernetes or a TPU"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    several.add_argument("--num-processes", type=int, metavar="P", help="number of processes")
    several.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0")
    several.add_argument("--wait", type=int, metavar="S", help=f"seconds to join, and for a step (default {WAIT})")


def _train_options(p: argparse.ArgumentParser) -> None:
    default, optim = TrainConfig(), OptimConfig()
    p.add_argument("--preset", choices=("article",), help="the article's run; other options change it")
    p.add_argument("--fresh-head", action="store_true", help="train a new classifier, whatever the model has")
    p.add_argument("--epochs", type=int, help=f"default {default.epochs}")
    p.add_argument("--max-steps", type=int, metavar="K", help="stop after K updates; the learning rate is 0 there")
    p.add_argument("--batch-size", type=int, help=f"examples of an update, over all devices ({default.batch_size})")
    p.add_argument("--accumulate", type=int, metavar="K", help="divide each update into K micro-batches (default 1)")
    p.add_argument("--remat", action=argparse.BooleanOptionalAction, help="recompute activations, to save memory")
    p.add_argument("--drop-last", action=argparse.BooleanOptionalAction, help="skip each epoch's incomplete batch")
    p.add_argument("--dropout", choices=DROPOUT_MODES, help=f"default {default.dropout}")
    p.add_argument("--learning-rate", type=float, help=f"its highest value (default {optim.learning_rate:g})")
    p.add_argument("--weight-decay", type=float, help=f"default {optim.weight_decay:g}")
    p.add_argument("--warmup-steps", type=int, help=f"default {optim.warmup_steps}")
    p.add_argument("--clip-norm", type=float, help="clip gradients to this global norm (default: no clipping)")
    p.add_argument("--save", type=path, metavar="DIR", help="save the trained model there; transformers can load it")
    p.add_argument("--save-every", type=int, metavar="K", help="checkpoint into --out every K updates")
    p.add_argument(
        "--resume", type=path, metavar="DIR", help="continue from the newest checkpoint in DIR; auto: in --out, if any"
    )


def make_cluster(args: dict[str, Any], variables: Mapping[str, str]) -> Cluster:
    """The cluster that the options describe. An option that is not given is read from its variable (SFTREF_WAIT, ...).

    Args:
        args: the arguments by name; this function removes those of the cluster.
        variables: the environment variables.

    Raises:
        ConfigError: a variable has a wrong value; or see `Cluster`.
    """
    types = {"distributed": str, "coordinator": str, "num_processes": int, "process_id": int, "wait": int}
    values: dict[str, Any] = {}
    for name, kind in types.items():
        value, variable = args.pop(name, None), f"SFTREF_{name.upper()}"
        if value is None and (text := variables.get(variable)):
            require(name != "distributed" or text == "auto", f"{variable} = {text!r}, must be auto")
            require(kind is str or text.isdecimal(), f"{variable} = {text!r}, must be a whole number")
            value = kind(text)
        if value is not None:
            values[name] = value
    return Cluster(auto=values.pop("distributed", None) == "auto", **values)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    surroundings.keep_streams()
    argv = sys.argv[1:] if argv is None else argv
    args = vars(parser().parse_args(argv))
    command = args.pop("command")
    code = kit.run(command, args) if command in kit.COMMANDS else _run(command, args, argv)
    lost = surroundings.unwritten()
    if lost:
        print(f"sftref: {lost}", file=sys.stderr)
    return (code or 2) if lost else code


def _run(command: str, args: dict[str, Any], argv: Sequence[str]) -> int:
    """Run `train` or `evaluate`; returns the exit code."""
    debug = args.pop("debug", False)
    # The package sets environment variables only here. As in the article, JAX allocates memory when it is needed.
    if not args.pop("preallocate", False):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    worker = supervise.WORKER in os.environ
    keeps = args.pop("program_cache", True)
    try:
        cluster = make_cluster(args, os.environ)
        if not worker and "jax" not in sys.modules:
            try:
                surroundings.check_flags(os.environ)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        if cluster.several and not worker:
            require(
                command != "train" or "out" in args or "resume" in args,
                "--out: is required with several processes; give a folder that all of them can write to",
            )
            with surroundings.without_terminal():
                return supervise.run(argv, args.get("out", args.get("resume")), auto=cluster.auto)
        commands = _commands()
        run = commands.train if command == "train" else commands.evaluate
        cache = cache_folder(os.environ)
        kept = programs.kept(cache if keeps and not cluster.several else None)
        with interrupt.remembered(), surroundings.without_terminal(), kept:
            run(args, cache, cluster)
    except (Exception, KeyboardInterrupt) as error:
        # A library may turn a Ctrl-C into another exception.
        message, code = (INTERRUPTED, 130) if interrupt.SEEN.is_set() else _explain(error)
        if message is None and not worker:
            raise
        if debug or message is None:
            traceback.print_exception(error)
        if message is not None:
            print(f"sftref: {surroundings.one_line(message)}", file=sys.stderr)
        if worker:
            supervise.leave(code, error)
        return code
    finally:
        interrupt.SEEN.clear()
    return 0


def _commands() -> Any:
    """The module of the commands, which imports JAX."""
    try:
        import jax  # noqa: F401
    except ValueError as error:
        names = sorted(name for name in os.environ if name.startswith("JAX_"))
        raise ConfigError(f"JAX refuses a variable ({one_line(error)}); check {', '.join(names)}") from error
    from sftref import commands

    return commands


def cache_folder(variables: Mapping[str, str]) -> Path | None:
    """The folder of all caches: SFTREF_CACHE, or `sftref` in XDG_CACHE_HOME or ~/.cache; None without a home.

    An empty or relative XDG_CACHE_HOME is ignored, as the specification of these folders demands
    (https://specifications.freedesktop.org/basedir-spec/latest/#basics).
    """
    if variables.get("SFTREF_CACHE"):
        return Path(variables["SFTREF_CACHE"])
    base = variables.get("XDG_CACHE_HOME", "")
    base = base if os.path.isabs(base) else os.path.expanduser("~/.cache")
    return Path(base, "sftref") if os.path.isabs(base) else None


def _explain(error: BaseException) -> tuple[str | None, int]:
    """An error -> its message and exit code. The message is None for a bug of ours, which needs its traceback."""
    if isinstance(error, ConfigError):
        return str(error), 2
    if isinstance(error, OSError):
        return surroundings.reason(error), 2
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install it with: pip install 'sftref[demo]'", 2
    if isinstance(error, ImportError):
        return str(error), 2
    if isinstance(error, NonFiniteError | ScoreError):
        return str(error), 1
    return (INTERRUPTED, 130) if isinstance(error, KeyboardInterrupt) else (None, 1)


if __name__ == "__main__":
    sys.exit(main())
