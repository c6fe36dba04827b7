"""The table ``[plugins.postgres]``."""

from __future__ import annotations

from dataclasses import dataclass

from relaykit.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """Where the database is, and how long to wait for it."""

    dsn: str = setting(
        "",
        help="a connection string or URI, as libpq takes it, with all of its parameters (`sslmode`, several hosts, "
        "`target_session_attrs` …). What it leaves out comes from `PGHOST`, `PGUSER`, `PGPASSWORD`, `PGSERVICE` and "
        "the others; empty, all of it does. In a URI, percent-encode what is special in a password",
        secret=True,
    )
    schema: str = setting("relaykit", help="the schema that holds the tables; made if it is missing")
    pool_size: int = setting(8, help="connections that are open at most")
    connect_timeout: float = setting(
        5.0,
        help="seconds that making a connection may take, for each host: whole ones, at least 2. A `connect_timeout` "
        "in the dsn goes before it",
    )
    statement_timeout: float = setting(
        5.0, help="seconds after which the server gives a statement up; 0: the server's own setting"
    )
    call_timeout: float = setting(
        10.0, help="seconds after which a call fails, with every try that was made in them"
    )

    def __post_init__(self) -> None:
        if not self.schema:
            raise ValueError("schema must not be empty")
        for name in ("pool_size", "connect_timeout", "call_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
        if self.statement_timeout < 0:
            raise ValueError("statement_timeout must be 0 or more")
