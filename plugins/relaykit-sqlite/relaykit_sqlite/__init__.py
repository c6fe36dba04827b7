"""Sessions and transcripts in one SQLite file, for relaykit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from relaykit.hooks.registration import Command, PluginContext, StorageFactory


@hookimpl
def relaykit_register_settings() -> type:
    """Declare ``[plugins.sqlite]``."""
    from relaykit_sqlite.settings import SqliteSettings

    return SqliteSettings


@hookimpl
def relaykit_register_commands() -> Sequence[Command]:
    """Add ``backup``."""
    from relaykit_sqlite.commands import BACKUP

    return [BACKUP]


@hookimpl
def relaykit_register_storages(context: PluginContext) -> Mapping[str, StorageFactory]:
    """Offer ``sqlite``: sessions and transcripts survive the relay."""
    from functools import partial

    from relaykit_sqlite.settings import SqliteSettings, database_path
    from relaykit_sqlite.storage import open_sqlite

    settings = context.settings or SqliteSettings()
    opening = partial(
        open_sqlite,
        database_path(settings, context.state_dir),
        synchronous=settings.synchronous,
        busy_timeout=settings.busy_timeout,
        make_directory=settings.path is None,
        ids=context.ids,
    )
    return {context.name: opening}
