"""Bypass cases that lie about the method, the path or the host."""

from __future__ import annotations

from tests.support.bypass_case import BIG, JSON, SMALL, BypassCase, case, delete, keys, pay
from tests.support.lenient_api import HOST, Effect

METHOD_OVERRIDE = (
    delete("method-header:x-http-method-override", "/customers", ("X-HTTP-Method-Override", "DELETE")),
    delete("method-header:x-http-method", "/customers", ("X-HTTP-Method", "DELETE")),
    delete("method-header:x-method-override", "/customers", ("X-Method-Override", "DELETE")),
    delete("method-header:lower-case", "/customers", ("x-http-method-override", "delete")),
    delete(
        "method-header:second-of-two",
        "/customers",
        ("X-HTTP-Method-Override", "GET"),
        ("X-HTTP-Method-Override", "DELETE"),
    ),
    delete("method-header:in-a-list", "/customers", ("X-HTTP-Method-Override", "GET, DELETE")),
    delete("method-header:underscores", "/customers", ("X_HTTP_Method_Override", "DELETE")),
    delete("method-header:mixed-underscores", "/customers", ("X-HTTP_Method-Override", "DELETE")),
    delete(
        "method-header:with-url-header",
        "/public/a",
        ("X-Original-URL", "/customers/1"),
        ("X-HTTP-Method-Override", "DELETE"),
    ),
    delete("method-param:query", "/customers?_method=DELETE"),
    delete("method-param:upper-case", "/customers?_METHOD=delete"),
    delete("method-param:escaped", "/customers?%5fmethod=DELETE"),
    delete("method-param:escaped-letter", "/customers?_m%65thod=DELETE"),
    delete("method-param:second-of-two", "/customers?_method=GET&_method=DELETE"),
    delete("method-param:after-a-semicolon", "/customers?page=1;_method=DELETE"),
    case(
        "method-param:form",
        Effect.DELETE,
        "POST",
        "/customers",
        [("Content-Type", "application/x-www-form-urlencoded")],
        b"_method=DELETE",
    ),
    case(
        "method-param:multipart",
        Effect.DELETE,
        "POST",
        "/customers",
        [("Content-Type", "multipart/form-data; boundary=b")],
        b'--b\r\nContent-Disposition: form-data; name="_method"\r\n\r\nDELETE\r\n--b--\r\n',
    ),
    delete("method-line:lower-case", "/customers/1", method="delete"),
    delete("method-line:plain", "/customers/1", method="DELETE"),
    delete("method-param:path-parameter", "/customers;a=b?_method=DELETE"),
)

URL_OVERRIDE = (
    keys("url-header:x-original-url", "/public/a", ("X-Original-URL", "/admin/keys")),
    keys("url-header:x-rewrite-url", "/public/a", ("X-Rewrite-URL", "/admin/keys")),
    keys("url-header:x-original-uri", "/public/a", ("X-Original-URI", "/admin/keys")),
    keys("url-header:x-forwarded-uri", "/public/a", ("X-Forwarded-Uri", "/admin/keys")),
    keys("url-header:absolute", "/public/a", ("X-Original-URL", f"http://{HOST}/admin/keys")),
    keys("url-header:underscores", "/public/a", ("X_Original_URL", "/admin/keys")),
    keys("url-header:from-an-allowed-post", "/customers", ("X-Rewrite-URL", "/public/../admin/keys")),
)

TRAVERSAL = tuple(
    keys(f"path:{name}", target)
    for name, target in {
        "dots": "/public/../admin/keys",
        "dots-late": "/public/a/b/../../../admin/keys",
        "dot-then-dots": "/public/./../admin/keys",
        "dots-escaped": "/public/%2e%2e/admin/keys",
        "dots-escaped-upper-case": "/public/%2E%2E/admin/keys",
        "dots-half-escaped": "/public/.%2e/admin/keys",
        "slash-escaped": "/public/..%2fadmin/keys",
        "all-escaped": "/public/%2e%2e%2fadmin%2fkeys",
        "escaped-twice": "/public/%252e%252e%252fadmin%252fkeys",
        "slash-escaped-twice": "/public/..%252fadmin/keys",
        "escaped-three-times": "/public/%25252e%25252e%25252fadmin/keys",
        "backslash": "/public/..\\admin\\keys",
        "backslash-escaped": "/public/..%5cadmin%5ckeys",
        "backslash-escaped-twice": "/public/..%255cadmin%255ckeys",
        "path-parameter": "/public/..;/admin/keys",
        "path-parameter-with-value": "/public/..;v=1/admin/keys",
        "path-parameter-escaped": "/public/..%3b/admin/keys",
        "path-parameter-and-escaped-dots": "/public/%2e%2e;/admin/keys",
        "double-slash": "/public//../../admin/keys",
        "double-slash-first": "//public/../admin/keys",
        "overlong-utf-8": "/public/%c0%ae%c0%ae%c0%afadmin/keys",
        "percent-u": "/public/%u002e%u002e%u002fadmin/keys",
        "full-width-dots": "/public/%ef%bc%8e%ef%bc%8e/admin/keys",
        "one-dot-leader": "/public/%e2%80%a4%e2%80%a4/admin/keys",
        "full-width-slash": "/public/..%ef%bc%8fadmin%ef%bc%8fkeys",
        "line-feed": "/public/.%0a./admin/keys",
        "tab": "/public/.%09./admin/keys",
        "dots-and-nul": "/public/../admin/keys%00.png",
        "dots-and-encoded-query": "/public/../admin/keys%3fx=1",
        "dots-and-encoded-fragment": "/public/%2e%2e/admin/keys%23x",
    }.items()
) + tuple(
    keys(f"spelling:{name}", target)
    for name, target in {
        "plain": "/admin/keys",
        "case": "/Admin/KEYS",
        "trailing-slash": "/admin/keys/",
        "trailing-dot": "/admin/keys.",
        "double-slash-first": "//admin/keys",
        "double-slash-within": "/admin//keys",
        "letter-escaped": "/%61dmin/keys",
        "slash-escaped": "/admin%2fkeys",
        "path-parameter": "/admin;x=1/keys;y",
        "nul": "/admin/keys%00.png",
        "extension": "/admin/keys.json",
        "fragment": "/admin/keys#public",
        "leading-backslash": "\\admin\\keys",
        "public-case": "/PUBLIC/../admin/keys",
    }.items()
)

AUTHORITY = (
    keys("authority:other-host", "/public/keys", host="admin.internal"),
    keys("authority:other-host-upper-case", "/public/keys", host="ADMIN.internal"),
    keys("authority:absolute-form-path", f"http://{HOST}/admin/keys"),
    keys("authority:absolute-form-host", "http://admin.internal/public/keys"),
    keys("authority:absolute-form-userinfo", f"http://{HOST}@admin.internal/public/keys"),
    keys("authority:absolute-form-against-host", f"http://{HOST}/public/keys", host="admin.internal"),
    keys("authority:second-host", "/public/keys", ("Host", "admin.internal")),
    keys("authority:x-forwarded-host", "/public/keys", ("X-Forwarded-Host", "admin.internal")),
    keys("authority:forwarded", "/public/keys", ("Forwarded", "for=1.2.3.4;host=admin.internal")),
)

QUERY = (
    pay("query:amount", SMALL, target="/payments?amount=5000"),
    pay("query:amount-twice", SMALL, target="/payments?amount=5&amount=5000"),
    pay("query:amount-array", SMALL, target="/payments?amount[]=5000"),
    pay("query:amount-escaped", SMALL, target="/payments?%61mount=5%30%30%30"),
    pay("query:amount-after-a-semicolon", SMALL, target="/payments?x=1;amount=5000"),
)

OTHER_ROUTES = (
    case("route:put", Effect.PAYMENT, "PUT", "/payments", [JSON], BIG),
    case("route:patch", Effect.PAYMENT, "PATCH", "/payments", [JSON], BIG),
    pay("route:trailing-slash", BIG, target="/payments/"),
    pay("route:case", BIG, target="/Payments"),
    pay("route:through-public", BIG, target="/public/../payments"),
    pay("route:path-parameter", BIG, target="/payments;x"),
    case("route:head", Effect.KEYS, "HEAD", "/admin/keys"),
)

TARGETS: tuple[BypassCase, ...] = (
    *METHOD_OVERRIDE,
    *URL_OVERRIDE,
    *TRAVERSAL,
    *AUTHORITY,
    *QUERY,
    *OTHER_ROUTES,
)
