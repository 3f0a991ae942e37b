"""A detector without its verb."""

from raybd.types.methods import Detector


class Verbless(Detector):
    """Scores nothing."""
