"""What stages took on our machine, for a store in which none has run: one core of a CPU with AMX.

Victims and networks: benchmarks/RESULTS.md, 32 x 32 images, batches of 128, one thread. The other
kinds of stages: medians over the methods of the small experiments in configs/. Methods of one kind
differ tenfold, and machines more, so that a plan says where it used these figures. No GPU was
measured.
"""

PACE = {
    "small_cnn": 1.0,
    "small_resnet": 3.2,
    "preact_resnet18": 50.0,
    "resnet18": 55.0,
}
"""How many times longer a network takes than small_cnn, to train on one image."""
OTHER_NETWORK = 55.0
"""For a network that nobody has trained yet: that of a ResNet-18."""

SECONDS = {
    "victim": 1.8e-4,
    "removal": 1.8e-4,
    "encoder": 4e-4,
    "defended": 4e-4,
    "features": 2e-5,
    "score": 5e-4,
    "control": 5e-4,
    "stability": 5e-4,
    "purification": 1e-5,
    "baseline": 1e-4,
    "repair": 0.1,
    "scan": 25.0,
    "analysis": 1e-3,
    "poison": 1e-5,
    "plant": 1e-5,
    "prepare": 1e-3,
}
"""By kind of stage: seconds with small_cnn for each training image and epoch; of repairs, for each
epoch; of scans, for each."""
OTHER_STAGE = 5e-4
"""For a kind of stage that is not among them."""
