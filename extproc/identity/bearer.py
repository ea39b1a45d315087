"""Taking the bearer token out of the request's headers, and nothing else."""

from __future__ import annotations

import re

from extproc.domain.request import Headers
from extproc.identity.challenge import token_error

_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def extract_bearer(headers: Headers, header_name: str = "authorization") -> str:
    """The token in `header_name` (lower case). Any header but `authorization` may also carry it without a scheme.

    Raises TokenError: `missing` when the header is absent, empty or of another scheme; `malformed` when it appears
    more than once (two readers could pick different ones) or holds anything but one token68 (RFC 9110 section 11.2).
    """
    values = headers.all(header_name)
    if not values:
        raise token_error("missing")
    if len(values) > 1:
        raise token_error("malformed")
    scheme, space, rest = values[0].strip(" \t").partition(" ")
    if not space:
        if header_name == "authorization" or not scheme or scheme.lower() == "bearer":
            raise token_error("missing")
        token = scheme
    elif scheme.lower() != "bearer":
        raise token_error("missing")
    else:
        token = rest.lstrip(" ")  # the grammar allows 1*SP between scheme and token
    if _TOKEN68.fullmatch(token) is None:
        raise token_error("malformed")
    return token
