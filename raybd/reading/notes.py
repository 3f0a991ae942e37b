"""What is said, once, of images that are not taken as they are."""

import logging
from functools import cache

log = logging.getLogger("raybd.data")


@cache
def say_once(text: str) -> None:
    """Log a warning; a process says the same text once."""
    log.warning(text)
