"""What a defender plants into a training set to measure detectors without ground truth."""
