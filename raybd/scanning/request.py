"""What a user asks of a scan of a data set."""

from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from raybd.plan.validation import user_error
from raybd.types.config import Config

Asked = TypeVar("Asked", bound=Config)
DEFAULT_NETWORK = "small_cnn"
"""What is trained unless another architecture is named."""


class ScanRequest(Config):
    """A data set, what is known to be good, and how much time there is."""

    data: str
    """Folder of class folders or Parquet files."""
    trusted: str | None = None
    """Images that are known to be good; None: a share of the suspects is trusted."""
    trusted_share: float = Field(0.1, gt=0, lt=0.5)
    """Share of the suspects that is trusted if no other images are."""
    model: str | None = None
    """File or URL of the weights of a model that was trained on this data; None: one is trained."""
    network: str | None = None
    """Architecture, with its defaults; None: DEFAULT_NETWORK, or that of the model."""
    normalisation: str | None = None
    """How images were normalised when the model was trained, as the trainer `imported` names it."""
    size: int | None = Field(None, ge=8, le=512)
    """Side that images are resized to; None: as they are, or LARGEST_SIDE if they are larger."""
    budget: float = Field(10.0, gt=0)
    """Minutes."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of everything that is drawn."""

    @property
    def root(self) -> Path | None:
        """The folder below which images have their names; None: they are no files of a folder."""
        path = Path(self.data).expanduser()
        return path if path.is_dir() else None


def absolute(place: str) -> str:
    """Return a path that means the same in every process; a URL stays as it is."""
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() else place


def checked(kind: type[Asked], **fields: object) -> Asked:
    """Return a request of a kind. Raises UserError that names the option."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise user_error(error, "scan", kind) from error
