"""Training, from prepared or rendered clips to a model folder.

``loop`` is the one training loop: optimisers, averaging, checkpoints, logs, several ranks. ``clips`` are what it is fed
with. ``diffusion`` has the stages of the video model (teacher, causal student, Self-Forcing), ``parts`` those of the
networks around it (autoencoder, mixer, tiny decoder). ``recipes`` hold all settings; ``planning`` computes and measures
what a recipe takes. ``stages`` runs a recipe's stages with what ``sources`` loads; ``export`` writes the model.
"""
