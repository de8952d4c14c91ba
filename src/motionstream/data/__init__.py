"""Training data: rendered video with exact tracks, and the photographs its textures are cut from."""
