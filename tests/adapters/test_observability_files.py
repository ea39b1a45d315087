"""The dashboard and the alerting rules speak of metrics that there are, with the labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.support.metrics import every_family

PLACE = Path(__file__).parents[2] / "deploy" / "observability"
DASHBOARD = json.loads((PLACE / "dashboard.json").read_text())
GROUPS = yaml.safe_load((PLACE / "alerts.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "5m", "$__range": "6h", "$target": ".*"}
"""What Grafana puts in."""
OF_THE_SCRAPE = {"instance", "job"}
OF_A_HISTOGRAM = {"_bucket": {"le"}, "_sum": set(), "_count": set()}


def metrics() -> dict[str, set[str]]:
    """The labels of every time series, by its name."""
    found: dict[str, set[str]] = {}
    for family in every_family():
        labels = {*family.labels, *OF_THE_SCRAPE}
        if family.kind == "histogram":
            found |= {family.name + end: labels | more for end, more in OF_A_HISTOGRAM.items()}
        else:
            found[family.name] = labels
    return found


METRICS = metrics()


def expressions() -> Iterator[tuple[str, str, str]]:
    """Where it stands, the query, and the text with labels that is shown of its answer."""
    for panel in PANELS:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            yield panel["title"], text, target["legendFormat"]
    for rule in RULES:
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())


def selectors(expr: Any) -> Iterator[Any]:
    if isinstance(expr, promql_parser.VectorSelector):
        yield expr
    elif isinstance(expr, promql_parser.MatrixSelector):
        yield expr.vector_selector
    elif isinstance(expr, promql_parser.Call):
        for argument in expr.args:
            yield from selectors(argument)
    elif isinstance(expr, promql_parser.BinaryExpr):
        yield from selectors(expr.lhs)
        yield from selectors(expr.rhs)
    elif isinstance(expr, promql_parser.AggregateExpr | promql_parser.ParenExpr):
        yield from selectors(expr.expr)
    else:
        assert isinstance(expr, promql_parser.NumberLiteral), expr


@pytest.mark.parametrize(("where", "query", "told"), [pytest.param(*e, id=e[0]) for e in expressions()])
def test_a_query_asks_for_what_there_is(where: str, query: str, told: str) -> None:
    found = list(selectors(promql_parser.parse(query)))
    assert found, where
    known = set[str]()
    for selector in found:
        if selector.name is None:
            continue
        assert selector.name in METRICS, selector.name
        known |= METRICS[selector.name]
        assert {matcher.name for matcher in selector.matchers.matchers} <= METRICS[selector.name]
    grouped = {name for names in re.findall(r"by \(([^)]*)\)", query) for name in names.split(", ")}
    assert grouped <= known
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", told))
    assert shown <= (grouped or known)


def test_values_of_labels_are_those_that_are_written() -> None:
    samples = {
        family.name: {
            name: {sample.labels[at] for sample in family.samples} for at, name in enumerate(family.labels)
        }
        for family in every_family()
    }
    assert samples["extproc_rule_matches_total"]["errored"] <= {"true", "false"}
    for _, query, _ in expressions():
        assert not re.search(r'(errored|shadow)="(?!true"|false")', query)


def test_every_metric_is_watched_or_said_not_to_be() -> None:
    asked = {s.name for _, query, _ in expressions() for s in selectors(promql_parser.parse(query)) if s.name}
    left = {name for name in METRICS if not name.endswith(("_sum", "_count"))} - asked
    assert left == {
        "extproc_ledger_records", "extproc_spans_exported_total", "extproc_spans_sampled_out_total",
        "extproc_spans_unreadable_total",
    }  # fmt: skip


def test_each_rule_says_how_bad_it_is_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_dashboard_can_be_brought_in_as_it_is() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert DASHBOARD["uid"] == "extproc" and DASHBOARD["schemaVersion"] >= 36
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(PANELS)))
    assert used == variables
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert taken.isdisjoint(cells)
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
