"""Where MariaDB cannot be had, the demo says so and goes on."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.demo import mariadb, scene
from extproc.demo.mysql_story import MysqlChapter
from extproc.demo.scene import Scene


def unasked(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is done without a MariaDB")


def test_without_mariadb_the_chapter_says_what_would_bring_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.setattr(mariadb, "is_here", lambda: False)
    chapter = MysqlChapter(Scene(tmp_path), unasked, unasked)
    chapter.play()
    chapter.show_traces()
    assert "not played: the demo found no MariaDB: apt-get install mariadb-server" in capsys.readouterr().out
    assert chapter.by_hand() == ""


def test_without_mariadb_nothing_of_it_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(mariadb, "is_here", lambda: False)
    set_up = Scene(tmp_path)
    set_up._write_config()
    written = set_up.config.read_text()
    assert scene.DATABASE in written and "mysql" not in written
    assert not (tmp_path / "policies" / scene.BILLING_POLICY).exists()
