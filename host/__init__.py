"""The training framework; it knows no architecture."""
