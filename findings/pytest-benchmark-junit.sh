#!/usr/bin/env bash
# pytest-benchmark 5.3.1 with pytest 9.2.0, Python 3.11, 2026-11-29.
#
# Behaviour: `--benchmark-compare-fail` raises after the tests have been reported. The exit code is 1, but JUnit's file
# says 0 failures, the summary line "1 passed" is missing, and a traceback of the plugin takes its place.
# Expected: a failed test in the report, or at least no report that says all passed.
# Who meets this: anyone who has a CI that reads junit.xml: the regression is invisible there. sftref compares inside
# the test.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pytest==9.2.0 pytest-benchmark==5.3.1
cd "$folder"
cat > test_speed.py <<'PYTHON'
import os
import time


def test_speed(benchmark):
    benchmark.pedantic(time.sleep, args=(float(os.environ["SECONDS_EACH"]),), rounds=3)
PYTHON
cat > seen <<'SEEN'
exit code 1
tests="1" failures="0" errors="0"
last line: PerformanceRegression: Performance has regressed.
SEEN
SECONDS_EACH=0.01 venv/bin/python -m pytest -q --benchmark-save=before test_speed.py > before.txt
code=0
SECONDS_EACH=0.05 venv/bin/python -m pytest -q --benchmark-compare=0001 --benchmark-compare-fail=mean:50% \
  --junitxml=junit.xml test_speed.py > after.txt 2>&1 || code=$?
{
  echo "exit code $code"
  echo "$(grep -o ' tests="[0-9]*"' junit.xml | head -1 | cut -c2-) $(grep -o 'failures="[0-9]*"' junit.xml | head -1)" \
    "$(grep -o 'errors="[0-9]*"' junit.xml | head -1)"
  echo "last line: $(tail -1 after.txt | sed 's/.*\.Perf/Perf/')"
} > now
diff seen now && echo "as recorded"
