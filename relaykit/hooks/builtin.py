"""What relaykit itself brings, through the same hooks as any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relaykit.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relaykit.agent.workspace import Workspace
    from relaykit.hooks.registration import PluginContext, Storage, StorageFactory


@hookimpl
def relaykit_register_storages() -> Mapping[str, StorageFactory]:
    """Offer ``memory``: it forgets everything when the relay ends."""
    return {"memory": _open_memory}


@hookimpl
def relaykit_register_workspaces(context: PluginContext) -> Mapping[str, Workspace]:
    """Offer ``directory`` and ``in_place``, which need no git."""
    from relaykit.agent.workspace import DirectoryWorkspace, InPlaceWorkspace

    return {
        "directory": DirectoryWorkspace(context.state_dir / "directories"),
        "in_place": InPlaceWorkspace(context.projects),
    }


def _open_memory() -> Storage:
    from contextlib import nullcontext

    from relaykit.conversation.memory_journal import MemoryJournal
    from relaykit.session.memory_store import MemoryStore

    return nullcontext((MemoryStore(), MemoryJournal()))
