"""What a GPU takes for everything that raybd trains and scores, in one command without Ray.

    python -m benchmarks.gpu [--budget SECONDS] [--json FILE] [--only WORD ...] [--tiny]

It needs torch, torchvision, numpy, pydantic and safetensors, and no installation of raybd: run it
in the root of the repository. A row whose other needs are missing (lightly: SimCLR; scikit-learn:
DeDe's facts; pyarrow, fsspec, pandas, PyYAML: packed victims) is a line that says so. So is a row
that fails, one that the budget ends, and one that the hardware cannot have. Images are CIFAR-10's
if RAYBD_DATA holds them, else random ones of the same size: then accuracies mean nothing.

`--tiny` has sizes that a CPU does in a minute: what it measures is of no account.
"""
