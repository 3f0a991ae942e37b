"""Move what is damaged, or stands where another kind of file belongs, to `damaged/`.

What is moved can be looked at, and is computed again.
"""

import logging
import uuid
from pathlib import Path

from raybd.results.location import Location
from raybd.results.places import Kind, Misplaced, misplaced
from raybd.types.errors import one_line

log = logging.getLogger("raybd.store")


def set_aside(location: Location, path: str, reason: str) -> bool:
    """Move a damaged file or folder below `damaged/`, and log a warning with the reason.

    Return whether it was moved. In a store that may only be read it stays where it is.
    """
    aside = f"damaged/{path}-{uuid.uuid4().hex[:8]}"
    # Names of files, and what is quoted of them, may come from somebody else.
    place, reason = one_line(f"{location.url}/{path}"), one_line(reason)
    try:
        if location.local:
            _move(location, path, aside)
        else:
            for found in location.filesystem.find(location.at(path)):
                target = location.at(aside) + str(found)[len(location.at(path)) :]
                location.filesystem.makedirs(str(Path(target).parent), exist_ok=True)
                # Not `mv`: it takes a [ or * in the name of a store for a pattern.
                location.filesystem.cp_file(found, target)
                location.filesystem.rm_file(found)
    except FileNotFoundError:
        return False  # another process has set it aside, and has said so
    except OSError as error:
        text = "%s: %s; it can't be set aside (%s), and is not used"
        log.warning(text, place, reason, error.strerror or error)
        return False
    log.warning("%s: %s; set aside as %s, will be computed again", place, reason, one_line(aside))
    return True


def _move(location: Location, path: str, aside: str) -> None:
    """Move a file, a folder or a link of a local store; a link is not followed."""
    target = Path(location.at(aside))
    blocked = misplaced(location.root, str(Path(aside).parent), "folder")
    if blocked is not None:
        # Something else has the name of the folder of damaged files.
        place = Path(location.at(blocked[0]))
        place.rename(place.with_name(f".{place.name}-{uuid.uuid4().hex[:8]}"))
    target.parent.mkdir(parents=True, exist_ok=True)
    Path(location.at(path)).rename(target)


def clear_folders(location: Location, pattern: str) -> None:
    """Set aside what stands where the folders of a pattern belong, but for hidden files."""
    for path in Path(location.root).glob(pattern):
        if not path.name.startswith("."):
            is_in_place(location, str(path.relative_to(location.root)), "folder")


def clear(location: Location, path: str) -> None:
    """Set aside all that keeps a file from being written at a path."""
    for _ in path.split("/"):
        if is_in_place(location, path, "file"):
            return
    found = misplaced(location.root, path, "file")
    if found is not None:
        # Writing all the same might follow a link out of the store.
        raise PermissionError(f"{location.at(found[0])}: {found[1]}, and can't be set aside")


def check_place(location: Location, path: str, kind: Kind | None) -> None:
    """Set aside what stands in the place of a file or folder, and raise Misplaced if so."""
    found = misplaced(location.root, path, kind)
    if found is not None:
        place, what = found
        set_aside(location, place, what)
        raise Misplaced(path)


def is_in_place(location: Location, path: str, kind: Kind | None) -> bool:
    """Return whether nothing stands in the place of a file or folder; else it is set aside."""
    try:
        check_place(location, path, kind)
    except Misplaced:
        return False
    return True
