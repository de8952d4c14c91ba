"""A module with its optimisers. A stage has one player, or two if it trains an opponent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from motionstream.training.loop import distributed

MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.Muon: ("momentum_buffer",),
}
"""State that optimisers keep per parameter, in its shape."""


class Player:
    """A module, its optimisers and the number of updates.

    ``offload``: keep the optimisers' moments in CPU memory between updates. ``muon``: update the matrices of
    transformer blocks with Muon.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        *,
        offload: bool = False,
        muon: bool = False,
    ) -> None:
        self.name, self.module, self.lr, self.updates, self.offload = name, module, lr, 0, offload
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError(f"the stage's {name} has nothing to train: every parameter is frozen")
        matrices = set[nn.Parameter]()
        if muon:
            named = module.named_parameters()
            matrices = {p for name, p in named if p.requires_grad and p.ndim == 2 and "blocks." in name}
        rest = [p for p in self.parameters if p not in matrices]
        groups = [[p for p in rest if distributed.is_sharded(p) == kind] for kind in (False, True)]
        self.optimisers = list[torch.optim.Optimizer]()
        if rest:
            # two groups: an optimiser fuses the tensors of a group, and sharded and whole ones cannot be fused
            whole = [{"params": group} for group in groups if group]
            self.optimisers.append(torch.optim.AdamW(whole, lr=lr, betas=betas, weight_decay=weight_decay))
        if matrices:
            own = [p for p in self.parameters if p in matrices]
            self.optimisers.append(
                torch.optim.Muon(own, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        self._owner = {p: o for o in self.optimisers for group in o.param_groups for p in group["params"]}

    def tensors(self, *, moments: bool = False) -> dict[str, Tensor]:
        """Weights and the optimisers' moments by name, sharing memory. ``moments``: include moments that do not exist
        yet, as zeros."""
        tensors = {f"{self.name}.{name}": value.detach() for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            if parameter not in self._owner:
                continue
            owner = self._owner[parameter]
            state = owner.state.get(parameter, {})
            if moments and not state:
                state = {key: torch.zeros_like(parameter.detach()) for key in MOMENTS[type(owner)]}
                if isinstance(owner, torch.optim.AdamW):
                    state = {"step": torch.zeros(()), **state}
            for key, value in state.items():
                tensors[f"{self.name}-optimiser.{key}.{name}"] = value
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        prefix = f"{self.name}."
        load_weights(self.module, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for name, parameter in self.module.named_parameters():
            if parameter not in self._owner:
                continue
            owner = self._owner[parameter]
            for key in ("step", *MOMENTS[type(owner)]):
                saved = tensors.get(f"{self.name}-optimiser.{key}.{name}")
                if saved is not None:
                    value = saved if key == "step" else distributed.sharded_like(saved, parameter.detach())
                    owner.state[parameter][key] = value
        if self.offload:
            self._move_moments("cpu")

    def clear(self) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)

    def update(self, rate: float) -> None:
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = rate
        if self.offload:
            self._move_moments(self.parameters[0].device)
        for optimiser in self.optimisers:
            optimiser.step()
        if self.offload:
            self._move_moments("cpu")
        self.updates += 1

    def _move_moments(self, device: torch.device | str) -> None:
        for optimiser in self.optimisers:
            for state in optimiser.state.values():
                for key in MOMENTS[type(optimiser)]:  # the step count stays on the CPU in any case
                    state[key] = state[key].to(device)


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """``load_state_dict``, where tensors and module may each be whole or sharded."""
    own = module.state_dict()
    module.load_state_dict(
        {name: distributed.sharded_like(v, own[name]) if name in own else v for name, v in weights.items()}
    )
