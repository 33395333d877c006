"""A folder of an object store, or of anything else that fsspec reaches: what the nodes of one store have in common.

Only this module imports fsspec. An object is there whole or not at all on S3; on a plain file system a copy that was
broken off is told by its size, and by its SHA-256 where its name says that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}},
    },
    "file": {"auto_mkdir": True},
}
"""By protocol. An S3 that does not answer is noticed after seconds; whoever needs it tries again by itself."""


class ObjectStoreAway(OSError):
    """The object store does not answer, or refuses: one line. It may do so later."""

    def __init__(self, folder: str, why: Exception) -> None:
        said = " ".join(str(why).split())[:200] or type(why).__name__
        super().__init__(f"{folder}: {said}")


class ObjectStoreUnusable(Exception):
    """The URL cannot be opened at all: one line that says what to do."""


class ObjectFolder:
    """Objects by their key, a path relative to the folder. Any method may raise ObjectStoreAway."""

    def __init__(self, file_system: Any, root: str, name: str) -> None:
        self._file_system = file_system
        self._root = root.rstrip("/")
        self.name = name

    def put(self, files: Sequence[tuple[Path, str]]) -> None:
        """Write each file under its key. Equal keys have equal content, so doing it twice does no harm."""
        try:
            with self._answering():
                self._file_system.put([str(file) for file, _ in files], [self._at(key) for _, key in files])
        except FileNotFoundError as error:  # the bucket is not there
            raise ObjectStoreAway(self.name, error) from error

    def fetch(self, objects: Sequence[tuple[str, Path]]) -> None:
        """Write each object to its file, which must not be there. Raises FileNotFoundError for one that is missing."""
        with self._answering():
            self._file_system.get([self._at(key) for key, _ in objects], [str(file) for _, file in objects])

    def size(self, key: str) -> int | None:
        """Bytes of an object; None where there is none."""
        return self.sizes(key.rpartition("/")[0]).get(key)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every object right below `folder`, by key; one request for a thousand."""
        try:
            with self._answering():
                self._file_system.invalidate_cache()
                listed = self._file_system.ls(self._at(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {
            f"{folder}/{entry['name'].rpartition('/')[2]}": int(entry["size"])
            for entry in listed
            if entry["type"] == "file"
        }

    def delete(self, keys: Sequence[str]) -> int:
        """Delete those of the objects that are there; how many."""
        there = {key for folder in {key.rpartition("/")[0] for key in keys} for key in self.sizes(folder)}
        doomed = sorted(there.intersection(keys))
        if doomed:
            with self._answering():
                self._file_system.rm([self._at(key) for key in doomed])
        return len(doomed)

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has errors of its own; all mean: not done
            raise ObjectStoreAway(self.name, error) from error


def open_object_folder(url: str, options: Mapping[str, Any]) -> ObjectFolder:
    """The folder at `url`; nothing is asked of the store yet.

    options: what the file system of the URL's protocol is opened with, see fsspec and s3fs. Raises
    ObjectStoreUnusable.
    """
    try:
        from fsspec.core import url_to_fs

        defaults = DEFAULTS.get(url.partition("://")[0], {})
        file_system, root = url_to_fs(url, **{**defaults, **options})
    except ImportError as error:
        raise ObjectStoreUnusable(f"spool.url {url}: {error}: pip install 'lungnode[s3]'") from None
    except (TypeError, ValueError) as error:
        raise ObjectStoreUnusable(f"spool.url {url}: {error}; see spool.options") from None
    return ObjectFolder(file_system, root, url)
