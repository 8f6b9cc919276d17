"""Arguments -> a TrainConfig: that of the defaults, the article's run or a saved run, changed by the options."""

from typing import Any

from sftref.config import OptimConfig, TrainConfig, require

OPTIM_FIELDS = tuple(OptimConfig.__dataclass_fields__)
# Options that a resumed run may change, because they change results only by the order of additions.
FREE_ON_RESUME = frozenset({"trainer", "devices", "mesh", "remat", "eval_batch_size", "save_every"})
# The article's run: QQP, bert-base-cased, a tenth of the training split for training and the next tenth
# for evaluation, rows padded to 128 tokens, 64 examples per device, 6 epochs of full batches.
ARTICLE: dict[str, Any] = {
    "task": "qqp", "data": "hub", "model": "bert-base-cased", "max_length": 128, "epochs": 6, "seed": 0,
    "dropout": "article", "pack": False, "drop_last": True,
    "train_fraction": 0.1, "eval_fraction": 0.1, "eval_from": "train",
}  # fmt: skip
ARTICLE_BATCH_PER_DEVICE = 64


def make_config(args: dict[str, Any], saved: TrainConfig | None = None) -> TrainConfig:
    """The configuration of a preset, a saved run or the defaults, with the changes in `args` (options by name).

    Raises:
        ConfigError: a value is out of range, or would change the results of a resumed run.
    """
    base = ARTICLE if args.get("preset") == "article" else {}
    known = set(TrainConfig.__dataclass_fields__) - {"optim"}
    values = base | {k: v for k, v in args.items() if k in known}
    optim = {k: v for k, v in args.items() if k in OPTIM_FIELDS}
    if saved is None:
        return TrainConfig(**values, optim=OptimConfig(**optim))
    before = saved.to_dict()
    for name, value in (values | optim).items():
        old = before["optim"][name] if name in OPTIM_FIELDS else before[name]
        require(
            name in FREE_ON_RESUME or value == old,
            f"--{name.replace('_', '-')} = {value}, must be {old} as in the run that --resume continues; leave it out",
        )
    # A new mesh replaces the saved number of devices; a new trainer or number of devices replaces the saved mesh.
    if "mesh" in values:
        before["devices"] = None
    elif values.keys() & {"trainer", "devices"}:
        before["mesh"] = None
    return TrainConfig.from_dict(before | {k: v for k, v in values.items() if k in FREE_ON_RESUME})
