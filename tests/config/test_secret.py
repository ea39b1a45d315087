"""Secrets are read in one place, from where only we can read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from extproc.config import SecretRef
from extproc.domain.errors import ConfigError


def secret_file(folder: Path, content: bytes, mode: int = 0o600) -> SecretRef:
    file = folder / "secret"
    file.write_bytes(content)
    file.chmod(mode)
    return SecretRef(file=file)


@pytest.mark.parametrize("mode", [0o600, 0o400])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_private_file_gives_its_text_without_the_last_newline(tmp_path: Path, mode: int, end: bytes):
    assert secret_file(tmp_path, b"canary" + end, mode).resolve() == "canary"


def test_only_one_newline_goes(tmp_path: Path):
    assert secret_file(tmp_path, b"a\n\n").resolve_bytes() == b"a\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int):
    with pytest.raises(ConfigError, match="chmod 600"):
        secret_file(tmp_path, b"canary", mode).resolve()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_judged_by_its_owner(tmp_path: Path):
    reference = secret_file(tmp_path, b"canary")
    assert reference.file is not None
    os.chown(reference.file, 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to another user"):
        reference.resolve()


def test_the_environment_gives_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXTPROC_TEST_SECRET", "canary\n")
    assert SecretRef(env="EXTPROC_TEST_SECRET").resolve() == "canary"


def test_what_is_missing_empty_large_or_no_text_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("EXTPROC_TEST_SECRET", raising=False)
    with pytest.raises(ConfigError, match=r"EXTPROC_TEST_SECRET.*is not set"):
        SecretRef(env="EXTPROC_TEST_SECRET").resolve()
    with pytest.raises(ConfigError, match="No such file"):
        SecretRef(file=tmp_path / "none").resolve()
    with pytest.raises(ConfigError, match="is empty"):
        secret_file(tmp_path, b"\n").resolve()
    with pytest.raises(ConfigError, match="is larger"):
        secret_file(tmp_path, b"x" * (64 * 1024 + 1)).resolve()
    with pytest.raises(ConfigError, match="is not UTF-8"):
        secret_file(tmp_path, b"\xff").resolve()
    with pytest.raises(ConfigError, match=r"directory|regular"):
        SecretRef(file=tmp_path).resolve()


def test_its_text_shows_the_place_and_never_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXTPROC_TEST_SECRET", "canary")
    for reference in (secret_file(tmp_path, b"canary"), SecretRef(env="EXTPROC_TEST_SECRET")):
        reference.resolve()
        assert "canary" not in f"{reference} {reference!r}"
