"""Sessions: a viewer's commands, the director that turns them into tracks, recordings and their replay."""
