"""Renews the table of settings in docs/configuration.md."""

from __future__ import annotations

from pathlib import Path

from extproc.config.show import reference

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
MARK = "| Setting |"


def main() -> None:
    before = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(before + reference())


if __name__ == "__main__":
    main()
