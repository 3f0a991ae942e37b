"""Images that do not fit into one array."""

from raybd.types.errors import UserError


def unequal_sizes(where: str, first: tuple[int, ...], other: tuple[int, ...]) -> UserError:
    """Return the error for images that do not fit into one array; sizes are (height, width)."""
    return UserError(
        f"{where}: images of unequal size, "
        f"{first[1]} x {first[0]} and {other[1]} x {other[0]} pixels",
        "Set `size`: every image is then resized to that side.",
    )
