"""Name of a GLUE task -> its columns, classes or label range, and metrics. Data only.

Sources: Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding",
arXiv:1804.07461, table 1 (tasks and metrics); the data set card of https://huggingface.co/datasets/nyu-mll/glue
(columns, class names and splits); `metrics/glue` of https://github.com/huggingface/evaluate (the metrics' names); the
README of CoLA (nyu-mll.github.io/CoLA: the four columns without names) and the cards of stanfordnlp/snli and
nyu-mll/multi_nli ("-", or -1 on the hub, where no label has a majority; remove such rows before training).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sftref.config import require_choice

HUB_ID = "nyu-mll/glue"
LABEL = "label"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One GLUE task."""

    name: str  # the same on the hub and in `evaluate`
    fields: tuple[str, ...]  # the one or two text columns, in the order for the tokenizer
    label_names: tuple[str, ...]  # the names of class 0, 1, ...; empty for regression
    metrics: tuple[str, ...]  # the keys of the result of `evaluate.load("glue", name)`
    label_range: tuple[float, float] | None = None  # the least and the greatest real label; None for classes
    validation_splits: tuple[str, ...] = ("validation",)
    # A column's name in the files of gluebenchmark.com -> its name on the hub, if the two differ.
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    # The columns of this task's files at gluebenchmark.com, if those files have no line of names.
    headerless: tuple[str, ...] = ()
    # Labels of a row that has no class because its annotators did not agree, as the hub's or the original files say it.
    undecided: tuple[str, ...] = ()
    # Other names of a class that files have -> the class's name.
    label_aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def regression(self) -> bool:
        """Whether the label is a real number."""
        return self.label_range is not None

    @property
    def num_labels(self) -> int:
        """C, the number of classes; 1 for regression."""
        return 1 if self.regression else len(self.label_names)

    def columns_in(self, names: Iterable[str]) -> dict[str, str]:
        """The names of a file's columns -> our name of each column of this task that is there, and its name there.

        A column is known by its name on the hub, or else by its name in GLUE's own files, or else by either name in
        another case or with spaces around it; "labels" is "label".

        Example:
            >>> get_task("mnli").columns_in(["Premise", "sentence2", "hypothesis", "gold_label"])
            {'premise': 'Premise', 'hypothesis': 'hypothesis', 'label': 'gold_label'}
        """
        names = list(names)
        folded = {name.strip().lower(): name for name in reversed(names)}
        found = {}
        for ours in (*self.fields, LABEL):
            known = [ours, *(theirs for theirs, name in self.aliases.items() if name == ours)]
            known += ["labels"] if ours == LABEL else []
            exact = [name for name in known if name in names]
            matches = exact or [folded[name.lower()] for name in known if name.lower() in folded]
            if matches:
                found[ours] = matches[0]
        return found


_PAIR = ("sentence1", "sentence2")
_NOT_ENTAILMENT_LAST = ("entailment", "not_entailment")

_ALL = (
    Task(
        name="cola",
        fields=("sentence",),
        label_names=("unacceptable", "acceptable"),
        metrics=("matthews_correlation",),
        headerless=("source", LABEL, "original_label", "sentence"),
    ),
    Task(name="sst2", fields=("sentence",), label_names=("negative", "positive"), metrics=("accuracy",)),
    Task(
        name="mrpc",
        fields=_PAIR,
        label_names=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        aliases=MappingProxyType({"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"}),
    ),
    Task(
        name="qqp",
        fields=("question1", "question2"),
        label_names=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        aliases=MappingProxyType({"is_duplicate": "label"}),
    ),
    Task(
        name="stsb",
        fields=_PAIR,
        label_names=(),
        metrics=("pearson", "spearmanr"),
        label_range=(0.0, 5.0),
        aliases=MappingProxyType({"score": "label"}),
    ),
    Task(
        name="mnli",
        fields=("premise", "hypothesis"),
        label_names=("entailment", "neutral", "contradiction"),
        metrics=("accuracy",),
        validation_splits=("validation_matched", "validation_mismatched"),
        aliases=MappingProxyType({"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}),
        undecided=("-", "-1"),
        label_aliases=MappingProxyType({"contradictory": "contradiction"}),  # in XNLI 1.0
    ),
    Task(name="qnli", fields=("question", "sentence"), label_names=_NOT_ENTAILMENT_LAST, metrics=("accuracy",)),
    Task(name="rte", fields=_PAIR, label_names=_NOT_ENTAILMENT_LAST, metrics=("accuracy",)),
    Task(name="wnli", fields=_PAIR, label_names=("not_entailment", "entailment"), metrics=("accuracy",)),
)

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})


def get_task(name: str) -> Task:
    """A task's name -> the task.

    Raises:
        ConfigError: there is no such task.

    Example:
        >>> get_task("qqp").fields
        ('question1', 'question2')
    """
    require_choice("--task", name, TASKS)
    return TASKS[name]
