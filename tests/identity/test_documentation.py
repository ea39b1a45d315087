from __future__ import annotations

import re
from pathlib import Path

import yaml

from extproc.adapters.jwks import MAX_REMEMBERED_KIDS, KeyTimes
from extproc.adapters.jwks_sources import FETCH_SECONDS, MAX_DOCUMENT, KeySource
from extproc.identity import (
    ALGORITHMS,
    MESSAGES,
    ClaimRules,
    MetadataTrust,
    ProviderRules,
    http_status,
    token_error,
)
from extproc.identity.keys import MAX_KEYS, MAX_RSA_BITS, MIN_RSA_BITS
from extproc.identity.verifier import CACHE_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()


def test_the_table_of_codes_is_the_code():
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (.+) \|$", PAGE, re.MULTILINE)

    assert rows == [(code, str(http_status(token_error(code))), text) for code, text in MESSAGES.items()]


def test_the_snippets_configure_what_exists():
    provider, trust = (
        yaml.safe_load(one)["identity"] for one in re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    )
    corp = provider["providers"][0]

    assert corp["skew"] == "30s"
    ProviderRules(
        corp["name"],
        corp["issuer"],
        tuple(corp["audiences"]),
        tuple(corp["algorithms"]),
        30.0,
        ClaimRules.of(**corp["claims"]),
    )
    KeySource(corp["name"], corp["issuer"], **corp["keys"])
    MetadataTrust(
        **{**trust["trust"]["metadata"], "audiences": tuple(trust["trust"]["metadata"]["audiences"])}
    )


def test_the_bounds_are_the_ones_in_force():
    times = KeyTimes()

    assert (MAX_DOCUMENT, FETCH_SECONDS, times.deadline, MAX_KEYS) == (1 << 20, 3.0, 3.0, 100)
    assert (times.min_interval, times.refresh_after, times.max_age) == (10, 300, 600)
    assert (times.stale_if_error, times.file_interval, times.unknown_for) == (3600, 10, 60)
    assert (MIN_RSA_BITS, MAX_RSA_BITS, CACHE_SECONDS, MAX_REMEMBERED_KIDS) == (2048, 8192, 300, 1000)
    for alg in ALGORITHMS:
        assert re.search(rf"\b{alg}\b", PAGE)
