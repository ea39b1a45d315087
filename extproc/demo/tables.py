"""What is in the demo's databases."""

from __future__ import annotations

from extproc.demo.mariadb import DATABASE
from extproc.demo.people import CUSTOMERS

ROLE = "app"
"""Whom every caller becomes at a database, whatever user name it gave."""


def schema(password: str) -> str:
    """The bank's database: the people of `people.py`, and ten orders each for two of them.

    The role owns the tables: what stops a DROP is policy alone.
    """
    return f"""
CREATE USER {ROLE} PASSWORD '{password}';
{_customers()}
CREATE TABLE orders (id int PRIMARY KEY, customer int, amount int);
INSERT INTO orders SELECT n, 1 + n % 2, n * 10 FROM generate_series(1, 20) n;
GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE};
ALTER TABLE customers OWNER TO {ROLE};
ALTER TABLE orders OWNER TO {ROLE};
"""


def billing_schema(password: str) -> str:
    """The same people, with ten invoices. Here too the role may drop everything."""
    return f"""
CREATE USER {ROLE} IDENTIFIED BY '{password}';
{_customers()}
CREATE TABLE invoices (id int PRIMARY KEY, customer int, amount int, paid bool NOT NULL DEFAULT 0);
INSERT INTO invoices SELECT seq, 1 + seq % 2, seq * 100, 0 FROM seq_1_to_10;
GRANT ALL ON {DATABASE}.* TO {ROLE};
"""


def _customers() -> str:
    columns = ("id", "name", "email", "phone", "iban", "card", "ssn", "city")
    rows = ", ".join(
        "(" + ", ".join(str(person[c]) if c == "id" else f"'{person[c]}'" for c in columns) + ")"
        for person in CUSTOMERS
    )
    return f"""CREATE TABLE customers
  (id int PRIMARY KEY, name text, email text, phone text, iban text, card text, ssn text, city text);
INSERT INTO customers VALUES {rows};"""
