"""Draws the gallery of attacks when the site is built: what each trigger does to a photograph.

The photographs are those that come with scikit-learn. An attack is drawn if its trigger needs no
trained network; the page names the others.
"""

import io
from dataclasses import dataclass
from functools import cache

import mkdocs_gen_files
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from raybd.registry import method_class, names, summary
from raybd.types.data import Poisoned, Split
from raybd.types.methods import Attack, AttackInput

SIDE = 64
"""Pixels of a side of the images."""
ZOOM = 2
CLASSES = 3
PER_CLASS = 40
SHOWN = 1
"""The image that is drawn, of a class that is no target."""


@dataclass(frozen=True)
class Drawn:
    """What an attack does to the images of other classes than its target."""

    strip: Image.Image
    factor: float
    """How much brighter the difference is drawn."""
    largest: int
    psnr: float
    similarity: float


@cache
def photographs() -> Split:
    """Return crops of the photographs, in turns of three classes."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    crops = []
    for number in range(CLASSES * PER_CLASS):
        photo = photos[number % len(photos)]
        side = int(rng.integers(200, 400))
        left = int(rng.integers(photo.width - side + 1))
        top = int(rng.integers(photo.height - side + 1))
        crop = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        crops.append(np.asarray(crop))
    x_NCHW = torch.tensor(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    return Split(x_NCHW, torch.arange(len(crops)) % CLASSES)


def poisoned_by(attack: Attack) -> Poisoned | None:
    """Return what an attack does to the photographs; None if it needs a trained network."""
    stamps = type(attack).stamp is not Attack.stamp
    stamps = stamps or type(attack).stamp_toward is not Attack.stamp_toward
    if not (attack.has_trigger and stamps) or attack.threat_model != "data" or attack.needs_twin:
        return None
    if type(attack).prepare is not Attack.prepare or attack.retrains or attack.reads_flags:
        return None
    rng = torch.Generator().manual_seed(0)
    return attack.poison(AttackInput(photographs(), CLASSES), rng)


def drawn(poisoned: Poisoned) -> Drawn:
    """Return a strip of pictures, and the measures of invisibility."""
    photos = photographs()
    others = photos.select(poisoned.counted(photos))
    worn_NCHW = poisoned.with_trigger(others.x_NCHW, others.y_N, CLASSES)
    change_NCHW = worn_NCHW.float() - others.x_NCHW.float()
    rmse_N = change_NCHW.square().mean((1, 2, 3)).sqrt()
    similarity = ssim(worn_NCHW.float(), others.x_NCHW.float(), data_range=255.0)
    assert isinstance(similarity, Tensor)

    change_CHW = change_NCHW[SHOWN]
    factor = 127 / max(float(change_CHW.abs().max()), 1)
    pictures = [
        others.x_NCHW[SHOWN].float(),
        worn_NCHW[SHOWN].float(),
        127.5 + factor * change_CHW,
        _spectrum(change_NCHW),
    ]
    strip_CHW = F.pad(torch.stack(pictures), (0, 4), value=255).permute(1, 2, 0, 3).flatten(2)
    pixels = strip_CHW.clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    strip = Image.fromarray(pixels)
    strip = strip.resize((strip.width * ZOOM, strip.height * ZOOM), Image.Resampling.NEAREST)
    return Drawn(
        strip,
        factor,
        int(change_NCHW.abs().max()),
        float((20 * (255 / rmse_N.clamp_min(1e-6)).log10()).mean()),
        float(similarity),
    )


def _spectrum(change_NCHW: Tensor) -> Tensor:
    """Return the mean power of the change at each frequency, low ones in the middle, as grey."""
    power_HW = torch.fft.fft2(change_NCHW).abs().square().mean((0, 1))
    log_HW = torch.fft.fftshift(power_HW).clamp_min(1).log()
    return (255 * log_HW / log_HW.max().clamp_min(1)).expand(3, -1, -1)


def section(kind: str) -> str | None:
    """Write the pictures of an attack, and return its part of the page; None if there are none."""
    method = method_class("attacks", kind)
    if any(field.is_required() for field in method.model_fields.values()):
        return None
    attack = method()
    assert isinstance(attack, Attack)
    poisoned = poisoned_by(attack)
    if poisoned is None:
        return None
    found = drawn(poisoned)
    data = io.BytesIO()
    found.strip.save(data, "PNG", optimize=True)
    with mkdocs_gen_files.open(f"methods/gallery/{kind}.png", "wb") as file:
        file.write(data.getvalue())
    alt = f"{kind}: an image, the image with the trigger, the difference, its spectrum"
    return (
        f"## {kind}\n\n{summary('attacks', kind)} [Fields](attacks/{kind}.md)\n\n"
        f"![{alt}](gallery/{kind}.png)\n\n"
        f"Difference times {found.factor:.1f}. Largest change of a pixel {found.largest} of 255, "
        f"PSNR {found.psnr:.1f} dB, SSIM {found.similarity:.3f}.\n"
    )


def page() -> str:
    """Return the gallery as Markdown."""
    sections = {kind: section(kind) for kind in names("attacks")}
    shown = [text for text in sections.values() if text is not None]
    missing = [f"[{kind}](attacks/{kind}.md)" for kind, text in sections.items() if text is None]
    return "\n".join(
        [
            "# Gallery of attacks",
            "",
            f"What each attack does to a photograph of {SIDE} x {SIDE} pixels at its default "
            "setting: the image, the image with the trigger, the difference (grey: no change), and "
            "the spectrum of the difference, with low frequencies in the middle. Measures are "
            "means over the test images on which attack success counts; SSIM has a Gaussian window "
            "of 11 pixels.",
            "",
            *shown,
            "## Not drawn",
            "",
            f"These need a trained network, or have no trigger: {', '.join(missing)}. The report "
            "of a run (`raybd report STORE`) shows their images before and after.",
            "",
        ]
    )


with mkdocs_gen_files.open("methods/gallery.md", "w") as file:
    file.write(page())
