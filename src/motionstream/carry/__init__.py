"""Picture content carried along the tracks: how models like ``nano`` move what is in a photograph.

It is a compositing engine with small trained parts, and runs once a chunk, before the transformer:

1. ``memory`` remembers in which picture, and where, every track of a stream began.
2. ``grouping`` finds tracks that move together: one thing each, or the camera.
3. ``things`` cuts each thing out of the picture it began in (``tracks/masks``: GrabCut, from several guesses), helped
   by a network that draws it (``outliner``); ``moved`` keeps what was let go, to be taken up again.
4. ``healing`` fills what was behind a thing with texture from elsewhere in the picture, ``filling`` smoothly.
5. ``relations`` tells which track every place follows: the nearest, the nearest that moves otherwise, and the one that
   began there; all of a thing follows one smooth field (``thing_motion``).
6. ``candidates`` warps the pictures accordingly; ``pixel_mixer``, a trained network, mixes the candidates.
7. ``prior`` says how far the carried picture may be off. The transformer predicts around it (``model/motion_model``).
8. ``showing`` decodes what the transformer made of it, around the carried picture.

docs/carry.md has the whole story.
"""
