"""Writes the report of a scan: one HTML page that needs no network, no server and no script."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raybd.report.cells.gallery import data_uris
from raybd.report.templates import environment, read, write_file
from raybd.results.provenance import versions
from raybd.scanning.model import ModelResult
from raybd.scanning.result import ScanResult, flagged_labels, mean_difference

SHOWN_CLASSES = 10
"""Classes whose suspects are shown."""
SHOWN_IMAGES = 32
"""Suspects of a class that are shown."""
SHOWN_ROWS = 100
"""Images in the table of the most suspicious ones."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
"""Content-Security-Policy: nothing runs, nothing is loaded or sent."""


def write_scan_page(result: ScanResult, title: str, target: Path) -> None:
    """Write the page of a scan of a data set.

    Raises UserError if the extra `report` is not installed, or the file can't be written.
    """
    frame = result.frame()
    write_page(
        "scans/data.html.j2",
        target,
        title=title,
        facts=frame.attrs,
        classes=[_class_drawing(result, label) for label in flagged_labels(result)[:SHOWN_CLASSES]],
        # Where nothing is flagged, the most suspicious ones are shown all the same.
        top=data_uris(_top_images(result)),
        rows=frame.head(SHOWN_ROWS).to_dict("records"),
    )


def write_model_page(result: ModelResult, title: str, target: Path) -> None:
    """Write the page of a scan of a model. Raises UserError as `write_scan_page`."""
    facts = result.facts()
    scanners = [
        {
            "facts": said,
            "pictures": {name: data_uris(x_NCHW) for name, x_NCHW in one.pictures.items()},
        }
        for one, said in zip(result.found, facts["scanners"], strict=True)
    ]
    write_page("scans/model.html.j2", target, title=title, facts=facts, scanners=scanners)


def write_page(template: str, target: Path, **values: Any) -> None:
    """Fill a template of this package into a file."""
    filled = environment()
    # Only here is it sure that the extra is installed.
    from markupsafe import Markup

    page = filled.get_template(template).render(
        policy=POLICY, style=Markup(read("style.css")), version=versions()["raybd"], **values
    )
    write_file(target, page.encode())


def amplified(difference_CHW: Tensor) -> tuple[Tensor, float]:
    """Return a difference of images around gray, uint8, and the factor that stretches it."""
    largest = float(difference_CHW.abs().max())
    factor = 127 / largest if largest else 1.0
    return (128 + factor * difference_CHW).round().clamp(0, 255).to(torch.uint8), factor


def _class_drawing(result: ScanResult, label: int) -> dict[str, Any]:
    """Return what is drawn of a class with flagged images."""
    difference_CHW, rows_M = mean_difference(result, label)
    picture_CHW, factor = amplified(difference_CHW)
    shown = rows_M[:SHOWN_IMAGES]
    images = data_uris(result.scan.suspects.pictures(shown))
    return {
        "name": result.scan.layout.class_names[label],
        "count": len(rows_M),
        "difference": data_uris(picture_CHW[None])[0],
        "factor": factor,
        "images": [
            {"uri": uri, "name": result.names[row]}
            for uri, row in zip(images, shown.tolist(), strict=True)
        ],
    }


def _top_images(result: ScanResult) -> Tensor:
    order = torch.argsort(result.judged.rank_N())[:SHOWN_IMAGES]
    return result.scan.suspects.pictures(result.judged.row_N[order])
