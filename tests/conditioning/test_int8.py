"""8-bit linear layers against the layers they replace."""

import pytest
import torch
from torch import nn

from motionstream.conditioning.int8 import Int8Linear, to_int8


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_stays_within_its_rounding(bias):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(64, 32, bias=bias)
    with torch.no_grad():
        linear.weight.normal_(generator=generator)
        linear.weight[3] *= 100  # a row of its own scale spoils no other
        linear.weight[5] = 0
    x = torch.randn(4, 64, generator=generator)
    rounded = Int8Linear(linear)
    assert rounded.weight.dtype == torch.int8 and rounded.weight.abs().amax(dim=1)[3] == 127
    with torch.no_grad():
        error = (rounded(x) - linear(x)).abs().amax(dim=0)
    bound = 0.5 * rounded.scale * x.abs().sum(dim=1).max()
    assert (error <= bound + 1e-5).all() and error.max() > 1e-3


def test_nested_layers_are_all_replaced_and_nothing_else():
    model = nn.Sequential(nn.Linear(8, 8), nn.ModuleDict({"inner": nn.Linear(8, 4)}), nn.LayerNorm(4))
    to_int8(model, torch.device("cpu"))
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("Int8Linear") == 2 and "Linear" not in kinds and "LayerNorm" in kinds
