"""What docs/masking.md says is so; and nothing is imported once a masker is compiled."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from extproc.masking import ENTITIES, STRICTNESS

PAGE = (Path(__file__).parents[2] / "docs" / "masking.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_snippets_run(code):
    exec(compile(code, "docs/masking.md", "exec"), {})


def test_every_entity_and_operator_has_its_row():
    rows = re.findall(r"^\| `([A-Za-z_]+)` \|", PAGE, re.MULTILINE)
    assert {row for row in rows if row.isupper()} == set(ENTITIES)
    named = [row for row in rows if row in STRICTNESS]
    assert set(named) == set(STRICTNESS)
    assert [STRICTNESS[name] for name in named] == sorted(STRICTNESS.values())


def test_every_refusal_code_has_its_row():
    source = "".join(
        path.read_text() for path in (Path(__file__).parents[2] / "extproc" / "masking").glob("*.py")
    )
    raised = set(re.findall(r'MaskingError\(\s*"([a-z-]+)"', source))
    assert {
        row for row in re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE) if row not in STRICTNESS
    } == raised


IMPORTS_NOTHING = """
import sys
from tests.masking.support import EVERYTHING, JSON, masker
from extproc.masking import ENTITIES
plans = [EVERYTHING] + [masker(entities=ENTITIES, operator=name) for name in ("partial", "hash", "hmac", "null")]
before = set(sys.modules)
text = "a@b.io 4111111111111111 DE89370400440532013000 +4930901820 phone 02079460958 10.0.0.1 ::1 123-45-6789"
for plan in plans:
    plan.body(f'["{text} \\\\u00e9"]'.encode(), JSON)
    plan.body(f"<p>{text}&amp;&eacute;</p>".encode(), "text/html; charset=latin-1")
    plan.body(text.encode("utf-16"), "text/plain; charset=utf-16")
    plan.url("/x?" + text)
    plan.headers([("x", text)])
new = set(sys.modules) - before
assert not new, new
"""


def test_masking_imports_nothing_once_compiled():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_NOTHING], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
