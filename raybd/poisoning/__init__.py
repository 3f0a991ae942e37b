"""What attacks share: label maps, the draw of the poisoned images, the overlay."""
