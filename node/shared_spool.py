"""The object store of the configuration, where there is one: what the nodes of one store have instead of a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.configuration import Configuration

if TYPE_CHECKING:
    from store.shared_storage import SharedStorage, Storage


def shared_storage(configuration: Configuration) -> SharedStorage | None:
    """The storage folder with its object store; None without one. Raises store.object_folder.ObjectStoreUnusable."""
    spool = configuration.spool
    if spool.url is None:
        return None
    from store.object_folder import open_object_folder
    from store.shared_storage import SharedStorage

    return SharedStorage(configuration.storage.path, open_object_folder(spool.url, spool.options))


def reachable_storage(configuration: Configuration) -> Storage:
    """What paths in the store are relative to, wherever the files lie. Raises as `shared_storage` does."""
    return shared_storage(configuration) or configuration.storage.path
