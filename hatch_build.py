"""Compiles the modules of the request path into the wheel, ahead of time, where `EXTPROC_COMPILE=1` says so.

Without the variable the wheel is pure Python and holds the very same sources. See docs/adr/0018-a-compiled-wheel.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GROUP = "extproc"
"""The library that holds all of it is `extproc__mypyc`."""


class Compile(BuildHookInterface):  # type: ignore[type-arg]
    """Puts extension modules beside the sources they were made of."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless this is an editable install. Raises CalledProcessError with the compiler's words above."""
        if os.environ.get("EXTPROC_COMPILE") != "1" or version == "editable":
            return
        root, work = Path(self.root), Path(self.root, "build/mypyc")
        # The copy is new, what the compilers made of the last one is not: unchanged C is not compiled again.
        shutil.rmtree(work / "extproc", ignore_errors=True)
        shutil.copytree(
            root / "extproc", work / "extproc", ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
        command = [
            sys.executable,
            __file__,
            "--config-file",
            str(root / "pyproject.toml"),
            *self.config["modules"],
        ]
        subprocess.run(command, cwd=work, check=True)  # noqa: S603
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for name in (f"{GROUP}__mypyc", *(module.removesuffix(".py") for module in self.config["modules"])):
            build_data["force_include"][str(work / "lib" / f"{name}{suffix}")] = f"{name}{suffix}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def compile_here(arguments: list[str]) -> None:
    """Compile modules of the working directory into `lib`. `arguments`: mypy's own, the modules among them."""
    from mypyc.build import mypycify
    from setuptools import setup

    extensions = mypycify(arguments, opt_level="2", debug_level="0", group_name=GROUP)
    for extension in extensions:
        # a warning of another compiler than ours is no reason not to have a wheel
        extension.extra_compile_args = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
        # Our functions call each other directly, and Python's without a detour: a twentieth fewer lines of the cache.
        extension.extra_compile_args += ["-fvisibility=hidden", "-fno-plt"]
        # No symbols, for the tables of names are as large as the code; addresses are looked up once, at the start.
        extension.extra_link_args = ["-Wl,-s", "-Wl,-z,now"]
    commands = ["--quiet", "build_ext", "--build-lib", "lib"]
    setup(name="extproc", packages=[], ext_modules=extensions, script_args=commands)


if __name__ == "__main__":
    compile_here(sys.argv[1:])
