"""Pictures and videos: read safely, written atomically, drawn on."""
