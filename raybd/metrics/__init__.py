"""The catalogue of measures, how they are computed from predictions and scores, and thresholds."""
