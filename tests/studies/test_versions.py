"""The page of JAX releases agrees with the reports, and gives a reason for every check that failed."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).parent / "versions" / "table.py"
spec = importlib.util.spec_from_file_location("versions_table", TABLE)
assert spec is not None
assert spec.loader is not None
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)
KNOWN = [{"jax": ["0.5.3"], "laws": ["collectives.psum"], "why": "A\nreason.", "source": "https://x"}]


def report(jax: str, *checks: tuple[int, str, str, str], survived: int = 0) -> dict[str, Any]:
    """A report of the JAX release `jax`; each of `checks` is (rung, law, status, message)."""
    return {
        "verdict": "CONFORMANT", "settings": {"level": "quick"}, "timing": {"seconds": 83.4},
        "environment": {"versions": {"jax": jax, "flax": "0.10"}, "platforms": ["cpu"], "machine": {"cores": 2},
                        "devices": [{}] * 8},
        "checks": [{"rung": rung, "rung_name": "name", "id": law, "law": law, "status": status, "message": message,
                    "subject": "mesh" if rung > 5 else ""}
                   for rung, law, status, message in checks],
        "faults": [{"id": "f", "status": "killed"}] * 2 + [{"id": "g", "status": "survived"}] * survived,
    }  # fmt: skip


FELL = (2, "collectives.psum", "fail", "off | by <1>")
FINE = (2, "collectives.pmean", "pass", "")
APART = (7, "equivalence.loss", "not_run", "capability devices is not claimed")
MISSING = (7, "equivalence.loss", "not_run", "needs 2 devices, found 1")


def test_a_row_counts_what_became_of_each_rung() -> None:
    head, row = table.rows([report("0.5.3", FELL, FINE, APART)])
    assert dict(zip(head, row, strict=True))["unwaited steps"] == "not run"
    hangs = report("0.5.3", (2, "collectives.unwaited", "deviation", "hangs"))
    known = (2, "collectives.non_finite", "deviation", "known bug")
    head, row = table.rows([report("0.5.3", FELL, FINE, known, APART) | {"unwaited": hangs}])
    assert dict(zip(head, row, strict=True))["unwaited steps"] == "**hang** (known)"
    found = dict(zip(head, row, strict=True))
    assert found["2 name"] == "1 passed, 1 **failed**, 1 known deviation"
    assert found["7 name"] == "does not apply"
    assert found["trainers"] == "mesh"
    assert (found["JAX"], found["flax"], found["seeded faults"], found["seconds"]) == (
        "**0.5.3**", "0.10", "2 of 2 seen", "83",
    )  # fmt: skip


def test_what_fell_has_its_reason_in_one_line_of_markdown() -> None:
    lines, amiss = table.explained([report("0.5.3", FELL)], KNOWN)
    assert amiss == []
    assert lines == [
        "- JAX 0.5.3, `collectives.psum`, fail: off \\| by \\<1>",
        "  *A reason.* (https://x)",
    ]


@pytest.mark.parametrize(
    ("reports", "known", "said"),
    [
        ([report("0.6.2", FELL)], KNOWN, "JAX 0.6.2: collectives.psum has no entry"),
        ([report("0.5.3", MISSING)], [], "equivalence.loss has no entry in known.toml: needs 2 devices"),
        ([report("0.5.3", FINE)], KNOWN, "the entry for collectives.psum under JAX 0.5.3 has no check that fell"),
        ([report("0.5.3", FINE, survived=1)], [], "JAX 0.5.3: the seeded fault g was not seen"),
    ],
)
def test_what_is_amiss_is_said(reports: list[dict[str, Any]], known: list[dict[str, Any]], said: str) -> None:
    _, amiss = table.explained(reports, known)
    assert len(amiss) == 1
    assert said in amiss[0]


def test_what_does_not_apply_needs_no_reason_and_an_entry_for_a_release_not_run_is_left_alone() -> None:
    assert table.explained([report("0.6.2", FINE, APART)], KNOWN) == ([], [])


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["table.py", *words])
    return int(table.main())


def test_the_page_is_in_the_order_of_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for jax in ("0.10.2", "0.9.2"):
        (tmp_path / jax).mkdir()
        (tmp_path / jax / "report.json").write_text(json.dumps(report(jax, FINE)))
    (tmp_path / "0.9.2" / "unwaited").mkdir()
    ends = report("0.9.2", (2, "collectives.unwaited", "pass", ""))
    (tmp_path / "0.9.2" / "unwaited" / "report.json").write_text(json.dumps(ends))
    out = tmp_path / "page.md"
    assert call(monkeypatch, str(tmp_path), "--out", str(out), "--commit", "ab12") == 0
    text = out.read_text()
    assert text.index("**0.9.2**") < text.index("**0.10.2**")
    assert [line.split(" | ")[-3] for line in text.splitlines() if line.startswith("| **")] == ["end", "not run"]
    assert text.rstrip().endswith("Nothing.")
    assert "at commit ab12." in " ".join(text.split())
    (tmp_path / "0.9.2" / "report.json").write_text(json.dumps(report("0.9.2", FELL)))
    assert call(monkeypatch, str(tmp_path), "--out", str(out), "--commit", "ab12") == 1
    assert "JAX 0.9.2: collectives.psum has no entry" in capsys.readouterr().out


def test_a_folder_without_reports_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, str(tmp_path), "--commit", "ab12") == 2
    assert capsys.readouterr().err.count("\n") == 1
