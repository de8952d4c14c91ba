"""What a viewer does and what becomes of it: commands, the director that obeys them, recordings and their replay."""
