"""Tracks drawn as colours, the alternative of the paper's table 3."""

import torch

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.component_config import LinearAutoencoderConfig
from motionstream.conditioning.drawn_tracks import DrawnTracks
from motionstream.conditioning.track_head import TrackHead
from motionstream.config import TrackHeadConfig


def test_drawn_tracks_are_an_encoded_video_of_squares():
    torch.manual_seed(0)
    autoencoder = LinearAutoencoder(LinearAutoencoderConfig(latent_channels=8, decoder_channels=8, decoder_blocks=1))
    plain = TrackHead(TrackHeadConfig(out_channels=8, id_dim=4, hidden_channels=4), spatial=8, temporal=4)
    head = DrawnTracks(plain, autoencoder)
    with torch.no_grad():
        head.project.weight.copy_(torch.eye(8)[..., None, None, None])
        head.project.bias.zero_()
    ids = torch.tensor([[3, 70_000]])
    places = torch.tensor([[9.0, 5.0], [25.0, 30.0]])
    positions = places.expand(1, 21, 2, 2) + torch.arange(21.0)[:, None, None] / 4
    visible = torch.ones(1, 21, 2, dtype=torch.bool)

    def latents(frames: slice, *, first: bool, count: int = 2) -> torch.Tensor:
        parts = positions[:, frames, :count], visible[:, frames, :count], ids[:, :count]
        return head(*parts, size=(32, 48), first=first)

    whole = latents(slice(21), first=True)
    assert whole.shape == (1, 8, 6, 4, 6)
    parts = [latents(slice(9), first=True), latents(slice(9, 21), first=False)]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)
    black = autoencoder.encode_part(-torch.ones(1, 3, 1, 32, 48), first=True)
    torch.testing.assert_close(latents(slice(1), first=True, count=0), black)
    video, _ = autoencoder.decode(latents(slice(1), first=True))
    marked = (latents(slice(1), first=True) - black).abs().sum(dim=1)[0, 0] > 1e-4
    assert video.shape[-2:] == (32, 48) and marked.nonzero().tolist() == [[0, 1], [3, 3]]
    assert {name for name, p in head.named_parameters() if p.requires_grad} == {"project.weight", "project.bias"}
