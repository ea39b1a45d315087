"""Case results as a JUnit report, the form that build servers read."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import groupby

from extproc.policy.cases import CaseResult


def junit_report(results: Sequence[CaseResult]) -> bytes:
    """One suite per case file, one test per case."""
    root = ElementTree.Element("testsuites", name="extproc policy test")
    for file, grouped in groupby(results, key=lambda result: result.case.file):
        cases = list(grouped)
        failed = sum(1 for result in cases if result.differences)
        suite = ElementTree.SubElement(
            root, "testsuite", name=file, tests=str(len(cases)), failures=str(failed), errors="0"
        )
        for result in cases:
            test = ElementTree.SubElement(
                suite,
                "testcase",
                classname=result.case.policy,
                name=_printable(result.case.name),
                file=file,
                line=str(result.case.mark.line),
            )
            if result.differences:
                failure = ElementTree.SubElement(test, "failure", message=_printable(result.differences[0]))
                failure.text = _printable("\n".join(result.differences))
    report: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return report


def _printable(text: str) -> str:
    """XML has no way to write most control characters."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
