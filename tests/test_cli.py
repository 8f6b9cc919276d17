"""Bad input ends in one line on stderr and an exit code; good input in a run whose records can be trusted."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from sftref import cli

WORDS = ("how", "do", "i", "learn", "to", "cook", "rice", "in", "india", "what", "is", "the", "best", "way")
# One layer and one device: what is under test is around the step, not in it.
SMALL = ["--model", "tiny", "--num-layers", "1", "--trainer", "single", "--max-length", "64"]


def rows(n: int, seed: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    sentence = lambda: " ".join(rng.choice(WORDS, rng.integers(2, 9)))  # noqa: E731
    return [{"question1": sentence(), "question2": sentence(), "label": int(rng.integers(2))} for _ in range(n)]


def write(folder: Path, **splits: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cli") / "pairs", train=rows(40, 0), validation=rows(21, 1))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFTREF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def records(out: Path) -> list[dict[str, object]]:
    """What a run recorded, without what no two runs share."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


# Arguments after `train`, and the message. DATA is the folder above.
BAD_ARGUMENTS = [
    (["--max-steps", "0"], "--max-steps = 0, must be at least 1"),
    (["--epochs", "0"], "--epochs = 0, must be at least 1"),
    (["--batch-size", "0"], "--batch-size = 0, must be at least 1"),
    (["--batch-size", "4", "--accumulate", "8"], "--accumulate = 8, must be at most --batch-size = 4"),
    (["--learning-rate", "0"], "--learning-rate = 0, must be more than 0"),
    (["--learning-rate", "nan"], "--learning-rate = nan, must be more than 0"),
    (["--weight-decay", "-1"], "--weight-decay = -1, must be at least 0"),
    (["--warmup-steps", "5", "--max-steps", "5"], "--warmup-steps = 5, must be less than the 5 steps"),
    (["--max-length", "600"], "--max-length = 600, must be at most 512, the positions of --model tiny"),
    (["--max-length", "4"], "--max-length = 4, must be at least 8"),
    (["--seed", "-1"], "--seed = -1, must be at least 0"),
    (["--train-fraction", "0"], "--train-fraction = 0, must be more than 0 and at most 1"),
    (["--train-fraction", "1.5"], "--train-fraction = 1.5, must be more than 0 and at most 1"),
    (["--eval-fraction", "0.01"], "--eval-fraction = 0.01 leaves none of 21 rows; raise it"),
    (["--task", "qpp"], "--task = 'qpp', must be one of cola, sst2"),
    (["--trainer", "mesh", "--devices", "9"], "--devices = 9, must be at most 8, the cpu devices of this machine"),
    (["--trainer", "mesh", "--devices", "0"], "--devices = 0, must be at least 1"),
    (["--trainer", "mesh", "--devices", "99"], "--devices = 99, must be at most 64"),
    (["--devices", "2"], "--devices = 2, must be 1 with --trainer single; choose --trainer pmap or mesh"),
    (["--dropout", "article"], "--pack with --dropout article: the article's masks are for padded rows"),
    (["--num-layers", "3"], "3, must be at most 2"),
    (["--drop-last", "--batch-size", "64"], "--batch-size = 64 with --drop-last, must be at most the 40"),
    (["--data", "nowhere"], "--data nowhere: no such file or folder"),
    (["--data", "bundled", "--task", "mrpc"], "--data bundled is for --task qqp, not mrpc"),
    (["--data", "hub"], "--data hub: cannot load nyu-mll/glue qqp"),
    (["--model", "nowhere/bert"], "--model nowhere/bert"),
    (["--resume", "nowhere"], "--out with --resume"),
    (["--resume", "nowhere", "--preset", "article"], "--preset with --resume"),
    (["--out", "/proc/sftref"], "--out /proc/sftref: cannot be written"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS, ids=[" ".join(a) for a, _ in BAD_ARGUMENTS])
def test_bad_arguments(arguments: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *SMALL, "--data", str(data), "--out", "run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sftref: ")
    assert message in error
    assert error.count("\n") == 1, f"{error!r}, must be one line"
    assert "Traceback" not in error
    assert not Path("run/metrics.jsonl").exists(), "a refused run left records"


def test_every_bad_argument_is_a_different_one() -> None:
    assert len({message for _, message in BAD_ARGUMENTS}) == len(BAD_ARGUMENTS) >= 25


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "train.jsonl").unlink(), "no file train with one of"),
        (lambda d: (d / "train.jsonl").write_text(""), "train.jsonl is empty"),
        (lambda d: (d / "train.jsonl").write_bytes(b'{"question1": "\xe9"}\n'), "0xe9, which is not UTF-8"),
        (lambda d: write(d, train=[{"question1": "a", "label": 1}]), "no column question2"),
        (lambda d: write(d, validation=[{"question1": "a", "question2": "b", "label": 2}]), "label = 2"),
        (lambda d: write(d, validation=[{"question1": "a", "question2": "b", "label": -1}]), "hidden labels"),
        (lambda d: write(d, train=[{"question1": "a", "question2": None, "label": 0}]), "question2 is null"),
        (lambda d: (d / "train.jsonl").write_text("{not json\n"), "line 1: not JSON"),
    ],
    ids=["missing", "empty", "utf-8", "column", "label", "hidden label", "null text", "json"],
)
def test_bad_data(spoil: object, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(data, spoiled)
    spoil(spoiled)
    assert cli.main(["train", *SMALL, "--data", str(spoiled), "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(spoiled) in error
    assert error.count("\n") == 1, f"{error!r}, must be one line"


def train(*arguments: str) -> int:
    return cli.main(["train", *SMALL, "--batch-size", "16", "--learning-rate", "1e-3", *arguments])


def test_a_run_is_recorded_saved_and_evaluated_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", str(data), "--epochs", "2", "--out", "run", "--save", "model") == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    evals = [line for line in lines if line["kind"] == "eval"]
    assert [s["step"] for s in steps] == [1, 2, 3, 4, 5, 6]
    assert [s["examples"] for s in steps] == [16, 16, 8, 16, 16, 8]
    assert set(steps[0]) == {"kind", "step", "loss", "learning_rate", "examples", "tokens", "seconds"}
    assert [round(s["learning_rate"] / 1e-3 * 6) for s in steps] == [6, 5, 4, 3, 2, 1]
    assert [(e["step"], e["epoch"], e["examples"]) for e in evals] == [(3, 1.0, 21), (6, 2.0, 21)]
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["final"]["validation"]["accuracy"] == evals[-1]["accuracy"]
    assert summary["devices"]
    assert summary["versions"]["jax"]
    assert Path("run/curves.png").stat().st_size > 10_000
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("1/2 | Train loss: ")
    assert " | Eval accuracy: " in printed[0]
    assert ", f1: " in printed[0]

    arguments = ["--model", "model", "--data", str(data), "--max-length", "64", "--trainer", "single"]
    assert cli.main(["evaluate", *arguments, "--out", "scores"]) == 0
    scores = json.loads(Path("scores/evaluation.json").read_text())["results"]["validation"]
    assert scores["accuracy"] == evals[-1]["accuracy"]
    assert scores["loss"] == pytest.approx(evals[-1]["loss"], rel=1e-6)
    predictions = [json.loads(line) for line in Path("scores/predictions-validation.jsonl").read_text().splitlines()]
    assert [p["example_id"] for p in predictions] == list(range(21))
    truth = [json.loads(line)["label"] for line in (data / "validation.jsonl").read_text().splitlines()]
    guess = np.argmax([p["logits"] for p in predictions], axis=1)
    assert scores["accuracy"] == accuracy_score(truth, guess)
    assert scores["f1"] == f1_score(truth, guess, zero_division=0)


def test_2_and_2_steps_are_4_steps_bit_for_bit(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = ["--data", str(data), "--max-steps", "4", "--save-every", "2"]
    assert train(*whole, "--out", "whole", "--save", "model-whole") == 0
    shutil.copytree("whole", "half")
    shutil.rmtree("half/checkpoints/4")  # as if it had ended in the middle of epoch 1, of three updates
    assert cli.main(["train", "--resume", "half", "--save", "model-half"]) == 0
    assert records(Path("half")) == records(Path("whole"))
    assert cli.main(["train", "--resume", "whole", "--save", "model-again"]) == 0
    assert "all 4 steps already done, records in whole" in capsys.readouterr().err
    weights = [Path(f"model-{name}", "model.safetensors").read_bytes() for name in ("whole", "half", "again")]
    assert weights[0] == weights[1] == weights[2]


def test_a_resumed_run_stays_the_same_run(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", str(data), "--max-steps", "2", "--save-every", "1", "--out", "run") == 0
    assert cli.main(["train", "--resume", "run", "--seed", "5"]) == 2
    assert "--seed = 5, must be 0 as in the run that --resume continues" in capsys.readouterr().err
    assert cli.main(["train", "--resume", "nowhere"]) == 2
    assert "--resume nowhere: has no config.json" in capsys.readouterr().err
    newest = Path("run/checkpoints/2")
    for file in newest.rglob("*"):
        if file.is_file() and "ocdbt" in file.as_posix() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert cli.main(["train", "--resume", "run"]) == 2
    error = capsys.readouterr().err
    assert "checkpoints/2: cannot be read" in error
    assert "delete it to continue from an earlier one" in error


def test_an_earlier_run_is_not_overwritten_unasked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text("{}\n")
    assert train("--data", str(data), "--out", "run") == 2
    assert "--out run: has metrics.jsonl of an earlier run" in capsys.readouterr().err
    assert Path("run/metrics.jsonl").read_text() == "{}\n"


def test_numbers_that_are_not_finite_end_the_run(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--data", str(data), "--learning-rate", "1e30", "--out", "run"]
    assert train(*run) == 1
    error = capsys.readouterr().err
    assert "at step 2, must be finite; the examples of this update have ids " in error
    assert "Traceback" not in error
    # The one update has a finite loss. Its NaN logits were scored as predictions of class 0.
    assert train(*run, "--max-steps", "1", "--overwrite") == 1
    assert "logits of 21 of the 21 examples of validation are NaN or infinite" in capsys.readouterr().err


def test_debug_shows_the_traceback(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", "nowhere", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_untrained_classifier_is_not_evaluated(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--model", "tiny", "--data", str(data), "--trainer", "single"]) == 2
    assert "has no trained classifier" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"]])
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert not command or f"sftref {command[0]} " in printed.split("examples:")[1]


def child(*arguments: str, limit: str = "unlimited") -> subprocess.Popen[str]:
    """`sftref train` in a process that writes files of `limit` blocks of 512 bytes at most, so no bytecode."""
    # A test run in the background inherits a SIGINT that is ignored; the person at the keyboard does not.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{start}; from sftref.cli import main; sys.exit(main())", "train", *SMALL]
    return subprocess.Popen(
        ["sh", "-c", f'ulimit -f {limit}; exec "$@"', "sh", *command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.mark.usefixtures("light_children")
def test_a_full_disk_is_one_line(data: Path) -> None:
    process = child("--data", str(data), "--max-steps", "1", "--save", "model", "--out", "run", limit="64")
    error = process.communicate(timeout=300)[1].splitlines()
    assert process.returncode == 2, error
    assert error[-1].startswith("sftref: ")
    assert "Traceback" not in "\n".join(error)
    assert not Path("model").exists(), "half a model was left"


@pytest.mark.usefixtures("light_children")
def test_ctrl_c_leaves_a_run_that_can_go_on(data: Path) -> None:
    process = child("--data", str(data), "--epochs", "2000", "--batch-size", "16", "--save-every", "1", "--out", "run")
    deadline = time.monotonic() + 240
    while not Path("run/checkpoints/3").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130, error
    # Not always the last line: a thread of Orbax's may still complain while Python shuts down.
    assert "sftref: interrupted; a run with --save-every continues with --resume DIR" in error.splitlines(), error
    from sftref.train.checkpoint import Checkpoints

    checkpoints = Checkpoints(Path("run"), must_exist=True)
    checkpoints.close()


def test_a_ctrl_c_lost_in_a_callback_still_ends_the_run(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in JAX's callback of the garbage collector, which swallows what is raised in it."""
    from sftref.train import interrupt
    from sftref.train.records import RunRecorder

    steps: list[int] = []
    record = RunRecorder.step

    def step(self: RunRecorder, line: object) -> None:
        record(self, line)
        steps.append(line.step)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunRecorder, "step", step)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert train("--data", str(data), "--epochs", "20", "--out", "run") == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith("interrupted; a run with --save-every continues with --resume DIR\n")
    interrupt.check()  # does not raise: an evaluation afterwards in this process is another run
    assert steps in ([1], [1, 2, 3]), "it must stop before the next epoch; steps under way are still recorded"
