"""Policy files from folders, and who wrote them.

A file that others may write is refused, and so is a folder that others may write: whoever can change a policy
can do everything the policy guards. Links may point within the folder only (a mounted ConfigMap does that).
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from extproc.domain.errors import PolicyError
from extproc.policy import PolicySource
from extproc.policy.documents import MAX_TEXT

MAX_FILES = 1000
CASES_SUFFIX = ".cases.yaml"
_SUFFIXES = (".yaml", ".yml")
_GIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Author:
    """Who stands behind the files: a commit when they are a clean git tree, else the uids that own them."""

    commit: str
    uids: tuple[int, ...]

    @property
    def kind(self) -> str:
        """`git` or `uid`."""
        return "git" if self.commit else "uid"

    def __str__(self) -> str:
        return f"git:{self.commit}" if self.commit else "uid:" + ",".join(map(str, self.uids))


@dataclass(frozen=True, slots=True)
class FoundPolicies:
    """Policies and the cases beside them, by path; both sorted."""

    policies: tuple[PolicySource, ...]
    cases: tuple[PolicySource, ...]


def read_policies(folders: Sequence[Path | str]) -> tuple[PolicySource, ...]:
    """Every policy in the folders and below; case files are left out. A path may also be one file.

    Raises PolicyError with every file that cannot be used.
    """
    return find_policies(folders).policies


def find_policies(paths: Sequence[Path | str]) -> FoundPolicies:
    """As `read_policies`, with the case files. A policy given as a file brings the cases beside it."""
    problems: list[str] = []
    policies: dict[str, PolicySource] = {}
    cases: dict[str, PolicySource] = {}
    for name, real in _named_files([Path(path) for path in paths], problems):
        if len(policies) + len(cases) >= MAX_FILES:
            problems.append(f"{name}: more than {MAX_FILES} files")
            break
        text = _read(name, real, problems)
        if text is not None:
            chosen = cases if name.endswith(CASES_SUFFIX) else policies
            chosen[name] = PolicySource(name, text)
    if problems:
        raise PolicyError("\n".join(problems))
    return FoundPolicies(_sorted(policies), _sorted(cases))


def author_of(folders: Sequence[Path | str]) -> Author:
    """Who stands behind the folders. One commit counts only if every folder is clean and at that commit."""
    paths = [Path(folder) for folder in folders]
    problems: list[str] = []
    uids = {real.stat().st_uid for _, real in _named_files(paths, problems)}
    commits = {_clean_commit(path if path.is_dir() else path.parent) for path in paths}
    commit = commits.pop() if len(commits) == 1 else ""
    return Author(commit, tuple(sorted(uids)))


def cases_beside(policy: str) -> str:
    """The name of the case file beside a policy file."""
    return policy.removesuffix(Path(policy).suffix) + CASES_SUFFIX


def _sorted(found: dict[str, PolicySource]) -> tuple[PolicySource, ...]:
    return tuple(found[name] for name in sorted(found))


def _named_files(paths: Iterable[Path], problems: list[str]) -> Iterator[tuple[str, Path]]:
    """(name for messages, real path) of every candidate; hidden files and folders are passed over."""
    for path in paths:
        if path.is_dir():
            yield from _below(path, path.resolve(), problems, set())
        elif path.is_file():
            yield str(path), path.resolve()
            beside = Path(cases_beside(str(path)))
            if beside != path and beside.is_file():
                yield str(beside), beside.resolve()
        else:
            problems.append(f"{path}: there is no such file or folder")


def _below(folder: Path, root: Path, problems: list[str], seen: set[Path]) -> Iterator[tuple[str, Path]]:
    real_folder = folder.resolve()
    if real_folder in seen:
        return
    seen.add(real_folder)
    if _others_may_write(real_folder.stat(), real_folder):
        problems.append(f"{folder}: group or others may write into this folder")
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        real = path.resolve()
        if not real.is_relative_to(root):
            if path.suffix in _SUFFIXES or real.is_dir():
                problems.append(f"{path}: the link leaves the folder")
        elif real.is_dir():
            yield from _below(path, root, problems, seen)
        elif path.suffix in _SUFFIXES:
            yield str(path), real


def _read(name: str, real: Path, problems: list[str]) -> str | None:
    """The file's text, checked on the open handle so that nothing can be swapped in between."""
    try:
        handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror})")
        return None
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            problems.append(f"{name}: not a regular file")
            return None
        if _others_may_write(facts, real):
            problems.append(f"{name}: group or others may write this file")
            return None
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        problems.append(f"{name}: larger than {MAX_TEXT} bytes")
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(f"{name}:{line}: not UTF-8")
        return None


def _others_may_write(facts: os.stat_result, path: Path) -> bool:
    """A read-only mount keeps everyone out whatever the bits say (ConfigMaps are mounted 0777)."""
    if not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def _clean_commit(folder: Path) -> str:
    """The commit that the folder is at, or nothing when it is changed, untracked or no git tree."""
    status = _git(folder, "status", "--porcelain", "--ignored", "--", ".")
    if status is None or status:
        return ""
    if not _git(folder, "ls-files", "--", "."):
        return ""
    return _git(folder, "rev-parse", "HEAD") or ""


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command that runs nothing the repository configures; None when it fails."""
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *arguments]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(  # noqa: S603 - fixed command, no shell
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None
