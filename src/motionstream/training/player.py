"""Who is trained: a module with its optimiser. A stage has one, or two where an opponent trains beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from motionstream.training import distributed


class Player:
    """A module, its optimiser and how often it has been updated.

    ``offload``: the optimiser's moments wait in the computer's memory between updates.
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
    ) -> None:
        self.name, self.module, self.lr, self.updates, self.offload = name, module, lr, 0, offload
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError(f"the stage's {name} has nothing to train: every parameter is frozen")
        groups = [[p for p in self.parameters if distributed.is_sharded(p) == kind] for kind in (False, True)]
        # two groups: an optimiser takes a group's tensors together, and sharded ones do not mix with others
        self.optimiser = torch.optim.AdamW(
            [{"params": group} for group in groups if group], lr=lr, betas=betas, weight_decay=weight_decay
        )

    def tensors(self, *, moments: bool = False) -> dict[str, Tensor]:
        """Weights and the optimiser's moments by name, sharing memory; ``moments``: those not yet there, too, as
        zeros."""
        tensors = {f"{self.name}.{name}": value.detach() for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            state = self.optimiser.state.get(parameter, {})
            if moments and parameter.requires_grad and not state:
                zeros = torch.zeros_like(parameter.detach())
                state = {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
            for key, value in state.items():
                tensors[f"{self.name}-optimiser.{key}.{name}"] = value
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        prefix = f"{self.name}."
        load_weights(self.module, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for name, parameter in self.module.named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                saved = tensors.get(f"{self.name}-optimiser.{key}.{name}")
                if saved is not None:
                    value = saved if key == "step" else distributed.sharded_like(saved, parameter.detach())
                    self.optimiser.state[parameter][key] = value
        if self.offload:
            self._move_moments("cpu")

    def clear(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def update(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if self.offload:
            self._move_moments(self.parameters[0].device)
        self.optimiser.step()
        if self.offload:
            self._move_moments("cpu")
        self.updates += 1

    def _move_moments(self, device: torch.device | str) -> None:
        for state in self.optimiser.state.values():
            for key in ("exp_avg", "exp_avg_sq"):  # the step's number stays on the CPU in any case
                state[key] = state[key].to(device)


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """``load_state_dict`` of whole or sharded tensors into a whole or sharded module."""
    own = module.state_dict()
    module.load_state_dict(
        {name: distributed.sharded_like(v, own[name]) if name in own else v for name, v in weights.items()}
    )
