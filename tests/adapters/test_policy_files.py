"""Reading policies from disk: what others may write is refused, and the author is named."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from extproc.adapters.policy_files import Author, author_of, cases_beside, find_policies, read_policies
from extproc.domain.errors import PolicyError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    made.mkdir(mode=0o755)
    made.chmod(0o755)
    return made


def write(path: Path, body: str | bytes = "a: b", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    path.chmod(mode)
    return path


def names(folder: Path) -> list[str]:
    return [os.path.relpath(source.name, folder) for source in read_policies([folder])]


def test_policies_are_read_from_a_folder_and_below_in_order(folder: Path) -> None:
    for name in ("b.yaml", "a.yml", "sub/c.yaml", "a.cases.yaml", "notes.txt", ".hidden.yaml", ".git/x.yaml"):
        write(folder / name, f"name: {name}")
    assert names(folder) == ["a.yml", "b.yaml", "sub/c.yaml"]
    assert read_policies([folder])[0].text == "name: a.yml"
    assert [Path(source.name).name for source in find_policies([folder]).cases] == ["a.cases.yaml"]


def test_a_policy_given_as_a_file_brings_its_cases(folder: Path) -> None:
    policy = write(folder / "a.yaml")
    write(folder / "a.cases.yaml")
    write(folder / "b.yaml")
    found = find_policies([policy])
    assert [source.name for source in found.policies] == [str(policy)]
    assert [source.name for source in found.cases] == [cases_beside(str(policy))]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777, 0o620])
def test_a_file_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    write(folder / "good.yaml")
    write(folder / "bad.yaml", mode=mode)
    with pytest.raises(PolicyError, match=r"bad\.yaml: group or others may write this file") as caught:
        read_policies([folder])
    assert "good.yaml" not in str(caught.value)


@pytest.mark.parametrize("inner", [".", "sub"])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write_is_refused(folder: Path, inner: str, mode: int) -> None:
    write(folder / "sub" / "a.yaml")
    (folder / inner).chmod(mode)
    with pytest.raises(PolicyError, match="group or others may write into this folder"):
        read_policies([folder])


def test_a_case_file_that_others_may_write_is_refused_too(folder: Path) -> None:
    write(folder / "a.cases.yaml", mode=0o666)
    with pytest.raises(PolicyError, match="may write this file"):
        find_policies([folder])


def test_links_may_not_leave_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.yaml")
    (folder / "a.yaml").symlink_to(outside)
    with pytest.raises(PolicyError, match=r"a\.yaml: the link leaves the folder"):
        read_policies([folder])
    (folder / "a.yaml").unlink()
    (tmp_path / "elsewhere").mkdir()
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyError, match="sub: the link leaves the folder"):
        read_policies([folder])


def test_links_within_the_folder_are_followed_once(folder: Path) -> None:
    """A mounted ConfigMap: files are links into a hidden folder."""
    write(folder / "..data" / "a.yaml")
    (folder / "a.yaml").symlink_to(folder / "..data" / "a.yaml")
    (folder / "loop").symlink_to(folder)
    assert names(folder) == ["a.yaml"]


def test_dangling_links_and_odd_files_are_refused(folder: Path) -> None:
    (folder / "gone.yaml").symlink_to(folder / "nothing.yaml")
    os.mkfifo(folder / "pipe.yaml", mode=0o644)
    with pytest.raises(PolicyError) as caught:
        read_policies([folder])
    assert "gone.yaml: cannot be read" in str(caught.value)
    assert "pipe.yaml: not a regular file" in str(caught.value)


def test_a_file_over_the_ceiling_is_refused(folder: Path) -> None:
    write(folder / "big.yaml", b"#" * (1024 * 1024 + 1))
    with pytest.raises(PolicyError, match=r"big\.yaml: larger than 1048576 bytes"):
        read_policies([folder])


def test_text_that_is_not_utf_8_is_refused_with_its_line(folder: Path) -> None:
    write(folder / "latin.yaml", b"a: b\nc: \xff")
    with pytest.raises(PolicyError, match=r"latin\.yaml:2: not UTF-8"):
        read_policies([folder])
    write(folder / "latin.yaml", "a: b".encode("utf-16"))
    with pytest.raises(PolicyError, match="not UTF-8"):
        read_policies([folder])


def test_a_path_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(PolicyError, match="there is no such file or folder"):
        read_policies([folder / "nothing"])


def test_all_files_with_trouble_are_named_at_once(folder: Path) -> None:
    write(folder / "a.yaml", mode=0o666)
    write(folder / "b.yaml", b"\xff")
    with pytest.raises(PolicyError) as caught:
        read_policies([folder])
    assert len(str(caught.value).splitlines()) == 2


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_author_is_the_commit_of_a_clean_tree(folder: Path) -> None:
    policy = write(folder / "a.yaml")
    assert author_of([folder]) == Author("", (os.getuid(),))
    git(folder, "init", "-q")
    assert author_of([folder]).kind == "uid"
    git(folder, "add", "a.yaml")
    git(folder, "commit", "-q", "-m", "one")
    commit = git(folder, "rev-parse", "HEAD")
    assert author_of([folder]) == Author(commit, (os.getuid(),))
    assert str(author_of([policy])) == f"git:{commit}"


@pytest.mark.parametrize("change", ["edit", "untracked", "ignored"])
def test_the_author_of_a_changed_tree_is_the_uid(folder: Path, change: str) -> None:
    policy = write(folder / "a.yaml")
    write(folder / ".gitignore", "ignored.yaml")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    if change == "edit":
        write(policy, "c: d")
    else:
        write(folder / f"{change}.yaml")
    assert str(author_of([folder])) == f"uid:{os.getuid()}"


def test_a_repository_s_own_hooks_do_not_run(folder: Path) -> None:
    write(folder / "a.yaml")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    ran = folder.parent / "ran"
    script = write(folder.parent / "hook.sh", f"#!/bin/sh\ntouch {ran}\n", mode=0o755)
    git(folder, "config", "core.fsmonitor", str(script))
    author_of([folder])
    assert not ran.exists()
