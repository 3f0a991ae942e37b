"""Faults in analyses that show embeddings, maps, spectra and surfaces of a victim."""

from tests.mutants.fault import Fault

HERE = "raybd/analyses/"
SCATTER_TESTS = ("tests/analyses/test_scatter.py", "-m", "not slow")
MAP_TESTS = ("tests/analyses/test_attribution.py", "tests/analyses/test_gradcam.py")
FREQUENCY_TESTS = ("tests/analyses/test_frequency_saliency.py",)
FEATURE_TESTS = ("tests/analyses/test_feature_vis.py",)
SURFACE_TESTS = ("tests/analyses/test_landscape.py",)
HESSIAN_TESTS = ("tests/analyses/test_hessian.py",)

FAULTS = (
    Fault(
        "scatter-true-of-poison",
        HERE + "_scatter.py",
        "true_N = torch.where(role_N == CLEAN, y_N, unknown_N)",
        "true_N = y_N",
        "the label that poison carries is taken for its true one",
        SCATTER_TESTS,
    ),
    Fault(
        "scatter-no-share",
        HERE + "_sample.py",
        "place_N[rows] = (torch.arange(len(rows)) + shift) / len(rows)",
        "place_N[rows] = torch.arange(len(rows)) + shift",
        "each group has the same number of rows in a sample",
        SCATTER_TESTS,
    ),
    Fault(
        "scatter-without-trigger",
        HERE + "_scatter.py",
        "pairs.worn_MCHW[worn]",
        "pairs.x_MCHW[worn]",
        "images that are called stamped wear no trigger",
        ("tests/analyses/test_scatter.py::test_stamped_test_images_wear_the_trigger",),
    ),
    Fault(
        "pair-maps-mass-outside",
        HERE + "_pair_maps.py",
        "(size_2HW * within)",
        "(size_2HW * ~within)",
        "the share outside of the trigger is told",
        MAP_TESTS,
    ),
    Fault(
        "pair-maps-unsigned",
        HERE + "_pair_maps.py",
        "size_2HW = a_2CHW.abs().sum(1)",
        "size_2HW = a_2CHW.sum(1)",
        "what speaks against a class is subtracted",
        MAP_TESTS,
    ),
    Fault(
        "attribution-other-sum",
        HERE + "attribution.py",
        "(self._victim(x_1CHW)[0] - self._usual())[class_2]",
        "self._victim(x_1CHW)[0][class_2]",
        "the error of the sum forgets the background",
        MAP_TESTS,
    ),
    Fault(
        "gradcam-negative",
        HERE + "gradcam.py",
        "relu_attributions=True",
        "relu_attributions=False",
        "what speaks against a class stays in the map",
        MAP_TESTS,
    ),
    Fault(
        "frequency-not-shifted",
        HERE + "frequency_saliency.py",
        "torch.fft.fftshift(log_BHW, dim=(-2, -1))",
        "log_BHW",
        "values stand at other frequencies",
        FREQUENCY_TESTS,
    ),
    Fault(
        "frequency-raw-pixels",
        HERE + "frequency_saliency.py",
        "victim(255 * unit_BCHW)",
        "victim(unit_BCHW)",
        "nearly black images are looked at",
        FREQUENCY_TESTS,
    ),
    Fault(
        "feature-vis-descends",
        HERE + "feature_vis.py",
        "self.tv * rough_U - gained_U",
        "self.tv * rough_U + gained_U",
        "images are those that a unit wants least",
        FEATURE_TESTS,
    ),
    Fault(
        "feature-vis-clean-units",
        HERE + "feature_vis.py",
        "(read[1] - read[0]).norm(dim=2)",
        "read[0].norm(dim=2)",
        "units are those that are most active without the trigger",
        FEATURE_TESTS,
    ),
    Fault(
        "landscape-not-normalised",
        HERE + "landscape.py",
        "direction[name] = drawn * length.view(-1, *[1] * (weight.ndim - 1))",
        "direction[name] = drawn",
        "directions do not have the length of the filters",
        SURFACE_TESTS,
    ),
    Fault(
        "landscape-walks-on",
        HERE + "_surface.py",
        "state[name].copy_(start[name])",
        "pass",
        "each point starts where the last one was",
        SURFACE_TESTS,
    ),
    Fault(
        "twin-path-other-way",
        HERE + "twin_path.py",
        "surface(victim, start, [line], a_P[:, None], images)",
        "surface(victim, end, [line], a_P[:, None], images)",
        "the path begins at the victim",
        SURFACE_TESTS,
    ),
    Fault(
        "hessian-sum",
        HERE + "_curvature.py",
        "group.sum_over(part_P).cpu() / self._images",
        "group.sum_over(part_P).cpu()",
        "the Hessian is that of the sum of the losses",
        HESSIAN_TESTS,
    ),
    Fault(
        "hessian-density-unweighted",
        HERE + "_spectrum.py",
        "return value_S, vectors_SS[0] ** 2",
        "return value_S, vectors_SS[-1] ** 2",
        "values have the weight of the last step, not of the start",
        HESSIAN_TESTS,
    ),
    Fault(
        "hessian-gaussian-probes",
        HERE + "_spectrum.py",
        "2.0 * torch.randint(2, (matrix.size,), generator=rng) - 1",
        "torch.randn(matrix.size, generator=rng)",
        "the trace of a diagonal is not exact",
        HESSIAN_TESTS,
    ),
    Fault(
        "streams-not-put-back",
        "raybd/ops/global_streams.py",
        "        np.random.set_state(of_numpy)\n",
        "",
        "numpy's stream is left where the library was",
        ("tests/ops/test_global_streams.py",),
    ),
)
