"""Data sets: the contract that every file of the role keeps."""

import pickle

import pytest

from raybd import registry
from raybd.reading.images import Images


@pytest.mark.parametrize("kind", registry.names("datasets"))
def test_every_data_set_has_the_shared_fields_and_hides_its_path(kind: str) -> None:
    method = registry.method_class("datasets", kind)
    assert issubclass(method, Images)
    assert registry.summary("datasets", kind)
    path = {"path": "/some/where"} if "path" in method.model_fields else {}
    config = method(**path)
    assert "path" not in config.model_dump(mode="json")
    assert pickle.loads(pickle.dumps(config)) == config
    assert isinstance(hash(config), int)
    assert all(field.description for field in method.model_fields.values())


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("digits", 32),
        ("cifar10", None),
        ("gtsrb", 32),
        ("svhn", 32),
        ("tiny_imagenet", None),
        ("imagenette", 160),
    ],
)
def test_default_sizes(kind: str, size: int | None) -> None:
    assert registry.method_class("datasets", kind)().model_dump()["size"] == size
