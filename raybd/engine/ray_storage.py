"""The file system of a store, as Ray Train and Ray Tune take it for their own state."""

from pyarrow.fs import FSSpecHandler, PyFileSystem

from raybd.results.store import Store


def ray_filesystem(store: Store) -> PyFileSystem | None:
    """Return the file system of a store; None for a folder, which Ray opens itself."""
    # fsspec's own file system, so that credentials and endpoint are those of the store.
    return None if store.local else PyFileSystem(FSSpecHandler(store.filesystem))
