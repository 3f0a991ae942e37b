"""What a bundle says of itself: citation, licence, and a description that machines read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

TITLE = "Results of backdoor attacks and defenses"
PURPOSE = (
    "The victims of these results are backdoored on purpose, for research on attacks and defenses. "
    "Do not deploy any of them."
)


def citation(authors: Sequence[str], licence: str, released: str, version: str) -> bytes:
    """Return CITATION.cff."""
    said = {
        "cff-version": "1.2.0",
        "message": "If you use these results, please cite them.",
        "type": "dataset",
        "title": TITLE,
        "authors": [{"name": author} for author in authors],
        "license": licence,
        "date-released": released,
        "abstract": f"{PURPOSE} Made with raybd {version}.",
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True).encode()


def licence_text(licence: str, authors: Sequence[str]) -> bytes:
    """Return the file that names the licence."""
    return (
        f"SPDX-License-Identifier: {licence}\nCopyright: {', '.join(authors)}\n\n{PURPOSE}\n"
    ).encode()


def croissant(
    sums: Mapping[str, str],
    columns: Mapping[str, str],
    authors: Sequence[str],
    licence: str,
    released: str,
) -> bytes:
    """Return croissant.json (mlcommons.org, version 1.0): the files, and the columns of the cells.

    `sums` has the SHA-256 of each file, `columns` the type of each column.
    """
    files = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "encodingFormat": _format(name),
            "sha256": digest,
        }
        for name, digest in sums.items()
    ]
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"cells/{name}",
            "name": name,
            "dataType": kind,
            "source": {"fileObject": {"@id": "cells.parquet"}, "extract": {"column": name}},
        }
        for name, kind in columns.items()
    ]
    said: dict[str, Any] = {
        "@context": {
            "@vocab": "https://schema.org/",
            "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
            "dct": "http://purl.org/dc/terms/",
            "conformsTo": "dct:conformsTo",
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
            "extract": "cr:extract",
            "column": "cr:column",
            "field": "cr:field",
            "fileObject": "cr:fileObject",
            "recordSet": "cr:recordSet",
            "source": "cr:source",
        },
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": TITLE,
        "description": PURPOSE,
        "license": licence,
        "creator": [{"@type": "sc:Organization", "name": author} for author in authors],
        "datePublished": released,
        "version": "1.0.0",
        "distribution": files,
        "recordSet": [{"@type": "cr:RecordSet", "@id": "cells", "name": "cells", "field": fields}],
    }
    return (json.dumps(said, indent=1) + "\n").encode()


def _format(name: str) -> str:
    kinds = {
        "parquet": "application/x-parquet",
        "json": "application/json",
        "yaml": "application/yaml",
        "html": "text/html",
        "js": "text/javascript",
        "gz": "application/gzip",
        "md": "text/markdown",
        "safetensors": "application/octet-stream",
    }
    return kinds.get(name.rpartition(".")[2], "text/plain")
