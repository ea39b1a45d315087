"""What a statement does on MySQL and MariaDB. `docs/sql.md` says what is known, what is not, and why."""
