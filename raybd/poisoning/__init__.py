"""What attacks share: base classes, label maps, draws, overlays, fine-tuning of encoders."""
