"""Attention captioning: images to captions, with what confidence needs. Knows no Beam."""
