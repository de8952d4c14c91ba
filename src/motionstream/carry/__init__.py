"""Picture content carried along the tracks: how models like ``nano`` move the content of a photograph.

A compositing engine with small trained parts. It runs once per chunk, before the transformer:

1. ``memory`` remembers in which picture each track of a stream began, and where in it.
2. ``grouping`` finds tracks that move together: those on one thing, or those that the camera moves.
3. ``things`` cuts each thing out of the picture it began in (GrabCut from several guesses, ``tracks/masks``; a network,
   ``outliner``, adds guesses). ``moved`` keeps things that were let go, so that they can be taken up again.
4. ``healing`` fills the area behind a thing with texture from elsewhere in the picture; ``filling`` fills it smoothly.
5. ``relations`` chooses the tracks of every place: the nearest, the nearest that moves differently, and the one that
   began nearest. All of a thing follows one smooth field (``thing_motion``).
6. ``candidates`` warps the pictures accordingly; ``pixel_mixer``, a trained network, mixes the candidates.
7. ``prior`` predicts the error of the carried picture. The transformer predicts around it (``model/motion_model``).
8. ``showing`` decodes the generated latents around the carried picture.

See docs/carry.md.
"""
