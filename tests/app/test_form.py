"""Whether the request path is compiled is told where people and auditors look."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec

import pytest
from click.testing import CliRunner

from extproc.app import form
from extproc.cli import main
from extproc.servers import ext_proc


def test_the_form_is_that_of_the_module_that_serves():
    assert form.is_compiled() != ext_proc.__file__.endswith(".py")


@pytest.mark.parametrize(
    ("origin", "expected"),
    [(f"/x/ext_proc{EXTENSION_SUFFIXES[0]}", True), ("/x/ext_proc.py", False), (None, False)],
)
def test_an_extension_module_is_the_compiled_form(
    monkeypatch: pytest.MonkeyPatch, origin: str | None, expected: bool
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: ModuleSpec("x", None, origin=origin))
    assert form.is_compiled() is expected


def test_the_command_line_says_which_form_it_is():
    said = CliRunner().invoke(main, ["--version"]).output
    assert said.endswith(f"({'compiled' if form.is_compiled() else 'pure Python'})\n")
