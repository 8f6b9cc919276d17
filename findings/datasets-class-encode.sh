#!/usr/bin/env bash
# datasets 5.2.0, Python 3.11, 2026-11-30.
#
# Behaviour: `DatasetDict.class_encode_column` numbers the classes of each split by itself. If the test split lacks a
# class, the ones after it get other numbers: "pos" is 2 in train and 1 in test. Integer labels are numbered in the
# order of their text: 10 comes before 2, and -1, which marks a row without a label, becomes class 0 and moves all
# others.
# Expected: one numbering for all splits, and integers that stay what they are.
# Who meets this: anyone who encodes labels before fine-tuning: the test score is that of permuted labels. A rare
# class or a test split without labels (-1 in GLUE) is enough. The column still has a valid ClassLabel, so no later
# check fails.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
cat > "$folder/seen" <<'SEEN'
train: {'neg': 0, 'neutral': 1, 'pos': 2}
test: {'neg': 0, 'pos': 1}
integers [-1, 0, 1]: [0, 1, 2]
integers [0, 1, 2, 10]: [0, 1, 3, 2]
SEEN
HF_HOME="$folder" "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
from datasets import Dataset, DatasetDict, disable_progress_bars

disable_progress_bars()
train = Dataset.from_dict({"label": ["neg", "neutral", "pos"]})
test = Dataset.from_dict({"label": ["neg", "pos"]})
splits = DatasetDict(train=train, test=test)
for name, split in splits.class_encode_column("label").items():
    print(f"{name}: {dict(zip(split.features['label'].names, range(9)))}")
for labels in ([-1, 0, 1], [0, 1, 2, 10]):
    encoded = Dataset.from_dict({"label": labels}).class_encode_column("label")
    print(f"integers {labels}: {encoded['label'][:]}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
