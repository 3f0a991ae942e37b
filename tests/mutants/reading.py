"""Faults in how data sets are read: names, pixels, parts, trusted images, flags of poison."""

from tests.mutants.fault import Fault

PIXELS = "raybd/reading/pixels.py"
OWN = "raybd/reading/own.py"
ASSEMBLE = "raybd/reading/assemble.py"
SHARDS = "raybd/reading/shards.py"
ODD = ("tests/reading/test_odd_data_sets.py",)
GIVEN = ("tests/attacks/test_given.py",)
NAMES = ("tests/cells/test_row_names.py",)

FAULTS = (
    Fault(
        "names-of-another-order",
        "raybd/cells/row_names.py",
        "names = dataset.names[pool].take(pa.array(index_N.numpy()))",
        "names = dataset.names[pool]",
        "a score row names the file of another image",
        NAMES,
    ),
    Fault(
        "names-of-the-wrong-pool",
        "raybd/stages/score.py",
        'tensors |= name_tensors(dataset, "test", tensors["index_N"])',
        'tensors |= name_tensors(dataset, "train", tensors["index_N"])',
        "test inputs are given the names of training images",
        NAMES,
    ),
    Fault(
        "transparent-pixels-keep-their-color",
        PIXELS,
        "upright = Image.alpha_composite(white, upright)",
        "pass",
        "what lies below transparent pixels is seen",
        ODD,
    ),
    Fault(
        "sixteen-bits-are-cut",
        PIXELS,
        "return Image.fromarray(np.rint(v_HW / WIDE).astype(np.uint8))",
        "return Image.fromarray(np.clip(v_HW, 0, 255).astype(np.uint8))",
        "bright pixels of 16 bits are all white",
        ODD,
    ),
    Fault(
        "not-turned",
        PIXELS,
        "ImageOps.exif_transpose(image, in_place=True)",
        "pass",
        "photographs lie on their side",
        ODD,
    ),
    Fault(
        "held-out-images-are-trained-on",
        ASSEMBLE,
        '"train": whole.select(~is_test_N)',
        '"train": whole.select(is_test_N | ~is_test_N)',
        "the test part is in the training part",
        ODD,
    ),
    Fault(
        "copies-of-trusted-images-are-suspects",
        OWN,
        "kept_N = torch.tensor([digest not in known for digest in part.digests()])",
        "kept_N = torch.ones(len(part), dtype=torch.bool)",
        "an image is trusted and suspected",
        ODD,
    ),
    Fault(
        "trusted-content-not-in-the-key",
        OWN,
        'hashes.append(f"trusted {trusted.content(trusted.row_N)}")',
        'hashes.append("trusted")',
        "other trusted images give the same key",
        ODD,
    ),
    Fault(
        "missing-shard-is-fine",
        SHARDS,
        "if missing := sorted(set(range(count)) - numbers):",
        "if missing := sorted(numbers - set(range(count))):",
        "a quarter of a data set is missing without a word",
        ODD,
    ),
    Fault(
        "paths-lead-anywhere",
        SHARDS,
        "if not target.is_relative_to(root.resolve()):",
        "if not target.is_absolute():",
        "a Parquet file makes raybd open other files of the user",
        ODD,
    ),
    Fault(
        "flags-not-in-the-key",
        OWN,
        'hashes.append(f"roles {sha256(role_N.numpy().tobytes()).hexdigest()}")',
        'hashes.append("roles")',
        "other flags give the same key",
        GIVEN,
    ),
    Fault(
        "poison-is-trusted",
        "raybd/reading/images.py",
        "known_M = torch.nonzero(source.role_N == CLEAN).flatten()",
        "known_M = torch.arange(len(y_N))",
        "images that came poisoned are in the clean part",
        GIVEN,
    ),
    Fault(
        "poison-is-tested-on",
        ASSEMBLE,
        "known_M = torch.nonzero(whole.roles_N == CLEAN).flatten()",
        "known_M = torch.arange(len(whole))",
        "images that came poisoned are in the held-out test part",
        GIVEN,
    ),
    Fault(
        "true-labels-made-up",
        "raybd/cells/row.py",
        "known = not cast(Attack, cell.attack.config).reads_flags",
        "known = True",
        "the label of an image that came poisoned counts as its true one",
        GIVEN,
    ),
    Fault(
        "given-roles-are-all-poison",
        "raybd/attacks/data/given.py",
        "role_M=given.role_N[index_M],",
        "role_M=torch.full_like(given.role_N[index_M], POISON),",
        "changed images without a backdoor count as poison",
        GIVEN,
    ),
)
