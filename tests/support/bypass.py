"""The bypass corpus: requests that make a lenient API do what a policy forbids.

`CORPUS` cases are first shown to reach their effect on the ungoverned `LenientApi`; behind extproc with
`POLICY` none may. `build(headers)` gives the raw request; pass the caller's token as a header there.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial

from tests.support.bypass_bodies import BODIES
from tests.support.bypass_case import GZIP, JSON, SMALL, BypassCase, request
from tests.support.bypass_targets import TARGETS
from tests.support.lenient_api import HOST, Effect, LenientApi

TARGET = "lenient-api"

POLICY = f"""\
apiVersion: extproc/v1
kind: Policy
metadata: {{name: bypass}}
target: {TARGET}
default: deny
rules:
  - name: our-host-only
    when: >-
      request.host != "{HOST}" || "x-forwarded-host" in request.headers || "forwarded" in request.headers
    then: {{deny: {{message: "this API has one host"}}}}
  - name: public
    when: request.method == "GET" && request.url_path.startsWith("/public/")
    then: {{allow: {{}}}}
  - name: customers
    when: request.method == "GET" && request.url_path == "/customers"
    then: {{allow: {{}}}}
  - name: small-payments
    when: >-
      request.method == "POST" && request.url_path == "/payments" && request.query == ""
      && request.json.amount < 1000
    then: {{allow: {{}}}}
"""
"""As an author would write it: it says what is allowed and leaves trickery to extproc."""

CORPUS: tuple[BypassCase, ...] = (*TARGETS, *BODIES)

ALLOWED: tuple[tuple[str, Callable[..., bytes]], ...] = (
    ("public", partial(request, "GET", "/public/a/b.txt?x=1&y=%2F", (), None, HOST)),
    ("public-escaped-letters", partial(request, "GET", "/public/caf%C3%A9", (), None, HOST)),
    ("customers", partial(request, "GET", "/customers", (), None, HOST)),
    ("small-payment", partial(request, "POST", "/payments", (JSON,), SMALL, HOST)),
    ("small-payment-decimal", partial(request, "POST", "/payments", (JSON,), b'{"amount": 999.99}', HOST)),
    (
        "small-payment-with-charset",
        partial(
            request, "POST", "/payments", (("Content-Type", "application/json; charset=UTF-8"),), SMALL, HOST
        ),
    ),
    (
        "small-payment-with-a-tricky-note",
        partial(
            request,
            "POST",
            "/payments",
            (JSON,),
            json.dumps({"amount": 5, "note": '&amount=5000 "amount": 5000 /*'}).encode(),
            HOST,
        ),
    ),
    (
        "small-payment-gzipped",
        partial(request, "POST", "/payments", (JSON, GZIP), gzip.compress(SMALL, mtime=0), HOST),
    ),
)
"""Requests the policy allows and that have no forbidden effect: a proxy that refuses these proves nothing."""

__all__ = ["ALLOWED", "CORPUS", "HOST", "POLICY", "TARGET", "BypassCase", "Effect", "LenientApi"]
