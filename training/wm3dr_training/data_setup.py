"""What a trainer needs of the data: the bank, the sampler's state, the composer of the stage, the read-out points."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wm3dr_training import parallel
from wm3dr_training.bank import N_DENSE, FaceBank, load_backgrounds, load_bank
from wm3dr_training.composer import MixedComposer, MultiFaceComposer, SingleFaceComposer
from wm3dr_training.config import TrainConfig
from wm3dr_training.data.correspondence import Correspondence, load_correspondence


class Data:
    """Bank on the device, an endless shuffled index, and the composer of the stage."""

    def __init__(
        self,
        config: TrainConfig,
        bank: FaceBank,
        validation: FaceBank,
        composer: SingleFaceComposer | MultiFaceComposer | MixedComposer,
        points: Correspondence,
        generator: torch.Generator,
    ) -> None:
        self.config, self.bank, self.validation = config, bank, validation
        self.composer, self.points, self.generator = composer, points, generator
        has_manual = (bank.weights[:, 17:68].sum(1) > 50).cpu()
        own = slice(parallel.rank(), None, parallel.world_size())
        self.pools = [kind.nonzero()[own, 0] for kind in (has_manual, ~has_manual)]  # manual landmarks or not
        self.orders = [pool[torch.randperm(len(pool))] for pool in self.pools]
        self.positions = [0, 0]

    def draw(self, count: int) -> Tensor:
        """The next `count` bank rows, in random order: about `manual_share` of them with manual landmarks."""
        share = self.config.manual_share if all(len(pool) for pool in self.pools) else float(len(self.pools[0]) > 0)
        manual = int(count * share + torch.rand(()).item())
        drawn = torch.cat([self._draw(0, manual), self._draw(1, count - manual)])
        return drawn[torch.randperm(count)].to(self.bank.images.device)

    def _draw(self, which: int, count: int) -> Tensor:
        rows = []
        while count:
            if self.positions[which] >= len(self.orders[which]):
                pool = self.pools[which]
                self.orders[which], self.positions[which] = pool[torch.randperm(len(pool))], 0
            part = self.orders[which][self.positions[which] : self.positions[which] + count]
            self.positions[which] += len(part)
            count -= len(part)
            rows.append(part)
        return torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)

    def state(self) -> dict:
        """What is needed to go on with exactly the same batches."""
        return {"orders": self.orders, "positions": list(self.positions), "torch": torch.get_rng_state()}

    def restore(self, state: dict) -> None:
        """Inverse of `state`."""
        self.orders, self.positions = state["orders"], list(state["positions"])
        torch.set_rng_state(state["torch"])


def load_data(config: TrainConfig, device: torch.device, generator: torch.Generator) -> Data:
    """Read the label folder and make the composer of the configured stage."""
    points = load_correspondence(config.correspondence)
    folder = Path(config.labels)
    sources = list(config.sources)
    arguments = (points.mirror[:N_DENSE], points.confidence)
    with_skin = config.render_share > 0 or config.losses.sparse_color > 0
    bank = load_bank(folder, sources, *arguments, jaw_weight=config.jaw_weight, with_skin=with_skin).to(device)
    held_out = [name for name in ("helen_train", "lfpw_train") if name in sources]
    validation = load_bank(folder, held_out or sources[:1], *arguments, split="validation" if held_out else "train").to(
        device
    )
    composer: SingleFaceComposer | MultiFaceComposer | MixedComposer
    if config.stage == 1:
        composer = SingleFaceComposer(bank, config, generator)
    elif config.close_share:
        composer = MixedComposer(bank, load_backgrounds(folder).to(device), config, generator)
    else:
        composer = MultiFaceComposer(bank, load_backgrounds(folder).to(device), config, generator)
    return Data(config, bank, validation, composer, points, generator)
