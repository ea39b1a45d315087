"""MySQL's own connector for Python, as a program: it is in an environment of its own and nothing here imports it.

One argument, in JSON: `port`, `user`, `password`, `database`, `ca`, and `pure`. What it saw is printed as JSON.
"""

import json
import sys
from typing import Any

import mysql.connector  # type: ignore[import-not-found]

asked = json.loads(sys.argv[1])
connection = mysql.connector.connect(
    host="127.0.0.1",
    port=asked["port"],
    user=asked["user"],
    password=asked["password"],
    database=asked["database"],
    ssl_ca=asked["ca"],
    ssl_verify_identity=False,
    ssl_verify_cert=True,
    use_pure=asked["pure"],
    autocommit=True,
)
seen: dict[str, Any] = {"class": type(connection).__name__}
with connection.cursor() as cursor:
    cursor.execute("SELECT id, name FROM customers WHERE id <= %s ORDER BY id", (2,))
    seen["text"] = cursor.fetchall()
with connection.cursor(prepared=True) as cursor:
    for wanted in (1, 3):
        cursor.execute("SELECT count(*), max(id) FROM orders WHERE id <= ?", (wanted,))
        seen.setdefault("prepared", []).append(cursor.fetchall())
with connection.cursor(buffered=True) as cursor:
    cursor.execute("SELECT REPEAT('x', 1000) FROM orders a, orders b LIMIT 3000")
    seen["large"] = sum(len(text) for (text,) in cursor.fetchall())
    try:
        cursor.execute("DELETE FROM orders")
    except mysql.connector.Error as error:
        seen["denied"] = [error.errno, error.sqlstate]
    cursor.execute("SELECT 1")
    seen["after"] = cursor.fetchall()
connection.close()
print(json.dumps(seen))
