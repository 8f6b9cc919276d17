#!/usr/bin/env bash
# seqeval 1.2.2 with scikit-learn 1.9.1 and NumPy 2.4.6, Python 3.11, 2026-11-30.
#
# Behaviour: `f1_score`, `precision_score`, `recall_score`, `precision_recall_fscore_support` and
# `classification_report` accept `sample_weight` and use it in no average. A sentence of weight 0 counts like any other,
# and a list of the wrong length passes. The strict mode does the same.
# Expected: a sentence of weight 0 changes nothing; the docstrings say "Sample weights", as scikit-learn's do.
# Who meets this: anyone who pads the last evaluation batch with rows of weight 0, or evaluates on weighted sentences:
# the padding lowers the score. Remove such rows first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet seqeval==1.2.2 numpy==2.4.6 scikit-learn==1.9.1
cat > "$folder/seen" <<'SEEN'
default f1_score: both sentences 0.67, weights 1 and 0 0.67, three weights 0.67, first sentence 1.00
default recall_score: both sentences 0.50, weights 1 and 0 0.50, three weights 0.50, first sentence 1.00
strict f1_score: both sentences 0.67, weights 1 and 0 0.67, three weights 0.67, first sentence 1.00
strict recall_score: both sentences 0.50, weights 1 and 0 0.50, three weights 0.50, first sentence 1.00
averages that the weights change: none
SEEN
"$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import seqeval.metrics
import seqeval.metrics.sequence_labeling
import seqeval.scheme

truth = [["B-PER", "O"], ["B-PER", "O"]]
guess = [["B-PER", "O"], ["O", "O"]]
modes = {"default": {}, "strict": {"mode": "strict", "scheme": seqeval.scheme.IOB2}}
for mode, options in modes.items():
    for score in (seqeval.metrics.f1_score, seqeval.metrics.recall_score):
        both = score(truth, guess, **options)
        weighted = score(truth, guess, sample_weight=[1, 0], **options)
        three = score(truth, guess, sample_weight=[0, 0, 9], **options)
        first = score(truth[:1], guess[:1], **options)
        print(f"{mode} {score.__name__}: both sentences {both:.2f}, weights 1 and 0 {weighted:.2f}, ", end="")
        print(f"three weights {three:.2f}, first sentence {first:.2f}")
changed = []
for average in (None, "micro", "macro", "weighted"):
    scores = [
        seqeval.metrics.sequence_labeling.precision_recall_fscore_support(
            truth, guess, average=average, sample_weight=weights
        )
        for weights in (None, [1, 0])
    ]
    if str(scores[0]) != str(scores[1]):
        changed.append(average)
reports = [seqeval.metrics.classification_report(truth, guess, sample_weight=weights) for weights in (None, [1, 0])]
if reports[0] != reports[1]:
    changed.append("report")
print("averages that the weights change:", *changed or ["none"])
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
