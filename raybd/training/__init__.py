"""What trainers share: the loop, recipes, inference, checkpoints, augmentation, precision."""
