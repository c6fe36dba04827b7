"""Sessions and transcripts in PostgreSQL, for relaykit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from relaykit.hooks.registration import PluginContext, Storage, StorageFactory

NAME = "postgres"


@hookimpl
def relaykit_register_settings() -> type:
    """Declare ``[plugins.postgres]``."""
    from relaykit_postgres.settings import PostgresSettings

    return PostgresSettings


@hookimpl
def relaykit_register_storages(context: PluginContext) -> Mapping[str, StorageFactory]:
    """Offer the storage ``postgres``."""

    def open_storage() -> Storage:
        from relaykit_postgres.settings import PostgresSettings
        from relaykit_postgres.storage import open_postgres

        return open_postgres(context.settings or PostgresSettings(), ids=context.ids, node=context.node)

    return {NAME: open_storage}
