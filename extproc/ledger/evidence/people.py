"""Tables of who did what: access review, rules granted and used, special rights, shared identities, refusals."""

from __future__ import annotations

from extproc.ledger.evidence.approvals import Row
from extproc.ledger.evidence.period import Period, merged
from extproc.ledger.exchanges import row_of

PRIVILEGED_EFFECTS = frozenset(("ddl", "admin", "file", "network"))


PRIVILEGED_RISK = 50


PRIVILEGED_COLUMNS = (
    "at",
    "principal",
    "person",
    "target",
    "request",
    "verdict",
    "code",
    "hold",
    "executed",
    "decision_id",
    "record",
)


def access(period: Period) -> list[Row]:
    """Who did what, with room for the reviewer's word."""
    found: dict[tuple[str, ...], Row] = {}
    for exchange in period.exchanges:
        principal = exchange.part("principal")
        if not principal:
            continue
        key = (str(principal.get("issuer", "")), str(principal.get("subject", "")), exchange.text("target"))
        row = found.setdefault(
            key,
            {
                "principal": key[1],
                "issuer": key[0],
                "person": str(principal.get("person", "")),
                "kind": str(principal.get("kind", "")),
                "groups": "",
                "target": key[2],
                "first": exchange.line.at,
                "last": "",
                "allowed": 0,
                "denied": 0,
                "held": 0,
                "rules_used": "",
                "effects": "",
                "authentication": "",
                "keep": "",
                "reviewer": "",
                "reviewed_on": "",
            },
        )
        row["last"] = max(row["last"], exchange.line.at)
        verdict = exchange.text("verdict")
        row["allowed"] += verdict == "allow"
        row["denied"] += verdict == "deny"
        row["held"] += "id" in exchange.part("hold")
        used = [str(rule.get("rule")) for rule in exchange.rules if not rule.get("shadow")]
        row["rules_used"] = merged(row["rules_used"], used if verdict == "allow" else ())
        row["groups"] = merged(row["groups"], map(str, principal.get("groups", ())))
        row["effects"] = merged(row["effects"], map(str, exchange.part("statement").get("effects", ())))
        strength = [f"{name}={principal[name]}" for name in ("acr", "amr") if principal.get(name)]
        row["authentication"] = merged(row["authentication"], (one.replace(" ", "") for one in strength))
    return [found[key] for key in sorted(found)]


def rules(period: Period) -> list[Row]:
    """What policy grants beside what was used."""
    rows = {
        (rule, target): {
            "rule": rule,
            "target": target,
            "effect": effect,
            "matched": 0,
            "principals": "",
            "last_used": "",
            "used": False,
            "errors": 0,
        }
        for rule, target, effect in period.rules
    }
    for exchange in period.exchanges:
        for rule in exchange.rules:
            key = (str(rule.get("rule")), exchange.text("target"))
            row = rows.setdefault(
                key,
                {
                    "rule": key[0],
                    "target": key[1],
                    "effect": str(rule.get("effect", "")),
                    "matched": 0,
                    "principals": "",
                    "last_used": "",
                    "used": False,
                    "errors": 0,
                },
            )
            row["matched"] = int(str(row["matched"])) + 1
            row["errors"] = int(str(row["errors"])) + bool(rule.get("errored"))
            row["used"] = True
            row["last_used"] = max(str(row["last_used"]), exchange.line.at)
            row["principals"] = merged(
                str(row["principals"]), [str(exchange.part("principal").get("subject", ""))]
            )
    return [rows[key] for key in sorted(rows)]


def privileged(period: Period) -> list[Row]:
    """Exchanges that change structure, rights or files, that carry much risk, or that a person let go."""
    rows = []
    for exchange in period.exchanges:
        effects = PRIVILEGED_EFFECTS.intersection(exchange.part("statement").get("effects", ()))
        risk = exchange.intent.fields.get("risk", 0) if exchange.intent is not None else 0
        why = sorted(effects)
        why += [f"risk {risk}"] if risk >= PRIVILEGED_RISK else []
        why += ["approval"] if exchange.part("hold") else []
        if why:
            row = row_of(exchange)
            rows.append({"why": ", ".join(why), **{name: row[name] for name in PRIVILEGED_COLUMNS}})
    return rows


def shared(period: Period) -> list[Row]:
    """Signs that one identity is used by several: more than one person, or a token seen from several addresses."""
    people: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    for exchange in period.exchanges:
        principal = exchange.part("principal")
        if not principal:
            continue
        name = f"{principal.get('issuer', '')}|{principal.get('subject', '')}"
        people.setdefault(name, set()).add(str(principal.get("person", "")))
        token = str(principal.get("token_id", ""))
        address = str(row_of(exchange)["source"]).rpartition(":")[0]
        if token and address:
            sources.setdefault(token, set()).add(address)
            names[token] = name
    rows = [
        {"identity": name, "sign": "several people", "seen": " ".join(sorted(found))}
        for name, found in sorted(people.items())
        if len(found) > 1
    ]
    rows += [
        {
            "identity": names[token],
            "sign": "one token from several addresses",
            "seen": " ".join(sorted(found)),
        }
        for token, found in sorted(sources.items())
        if len(found) > 1
    ]
    return rows


def refusals(period: Period) -> list[Row]:
    """Who was turned away, in the order of time."""
    wanted = (
        "at",
        "principal",
        "source",
        "target",
        "request",
        "verdict",
        "code",
        "rules",
        "trace_id",
        "decision_id",
        "record",
    )
    rows = [
        row_of(exchange) for exchange in period.exchanges if exchange.text("verdict") in ("deny", "error")
    ]
    return [{name: row[name] for name in wanted} for row in rows]
