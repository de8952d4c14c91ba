"""The pipeline in the manner of diffusers: load, call, save.

python examples/pipeline.py writes coffee.mp4 and tracks.npz; with PHOTO --tracks FILE.npz it follows those tracks.
"""

import argparse
from pathlib import Path

from motionstream import MotionStreamPipeline, Tracks
from motionstream.media.pictures import fit, read_picture
from motionstream.media.videos import write_video
from motionstream.tracks import drag_tracks
from motionstream.tracks.camera import CameraWay, camera_tracks
from motionstream.tracks.depth import plain_prior

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photo", nargs="?", type=Path, default=Path(__file__).parent / "photographs" / "coffee.jpg")
parser.add_argument("--tracks", type=Path)
parser.add_argument("--model", default="nano")
parser.add_argument("--untrained", action="store_true")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

pipe = MotionStreamPipeline.from_pretrained(options.model, untrained=options.untrained)
photo = read_picture(options.photo)
size, fps = pipe.config.nearest_size(*photo.shape[:2]), pipe.config.fps
picture, _ = fit(photo, size)

if options.tracks:
    tracks = Tracks.load(options.tracks).resize(size).resample(fps)
else:  # what is in the middle goes up a little, and the camera swings around it
    middle = (size[1] / 2, size[0] / 2)
    drag = drag_tracks(middle, (middle[0], middle[1] - size[0] / 8), frames=48, size=size, fps=fps)
    tracks = camera_tracks(plain_prior(size), CameraWay(orbit=(8, 0)), drag)
    tracks.save("tracks.npz")

video = pipe(picture, tracks, prompt="", seed=options.seed)  # uint8 (frames, height, width, 3)
write_video(f"{options.photo.stem}.mp4", video, fps)
print(f"{options.photo.stem}.mp4: {len(video)} frames along {tracks.count} tracks")
