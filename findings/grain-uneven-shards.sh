#!/usr/bin/env bash
# grain 0.2.18, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `IndexSampler` with four shards of ten records (`drop_remainder=False`, the default) cuts them into 3, 3, 2
# and 2, and then gives every shard the same number of records, 10 * epochs // 4. So in one epoch records 2 and 5 are in
# no shard, and in two epochs the small shards begin a third pass while the large ones have not ended their second.
# Expected: each record once an epoch; a remainder that is dropped only with `drop_remainder=True`.
# Who meets this: anyone who evaluates over several processes with it: some examples count twice, others never.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grain==0.2.18
cat > "$folder/seen" <<'SEEN'
1 epoch(s): [[0, 1], [3, 4], [6, 7], [8, 9]]
2 epoch(s): [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4], [6, 7, 6, 7, 6], [8, 9, 8, 9, 8]]
SEEN
"$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import grain

for epochs in (1, 2):
    shards = []
    for shard in range(4):
        sampler = grain.samplers.IndexSampler(
            10, shard_options=grain.sharding.ShardOptions(shard, 4), shuffle=False, num_epochs=epochs, seed=1
        )
        source = grain.sources.RangeDataSource(0, 10, 1)
        loader = grain.DataLoader(data_source=source, sampler=sampler, worker_count=0)
        shards.append([int(record) for record in loader])
    print(f"{epochs} epoch(s): {shards}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
