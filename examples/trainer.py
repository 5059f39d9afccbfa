"""A trainer with DDP, and the three mistakes behind most hangs of trainers, each in a line or two."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

SAMPLES, BATCH, GOOD = 20, 2, 0.5


class Trainer:
    """Fits a line; every rank calls the same collectives, whatever its data."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        torch.manual_seed(0)
        self.model = DistributedDataParallel(
            nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.inputs = torch.linspace(-1, 1, SAMPLES)[rank::world_size].unsqueeze(1)

    def fit(self, epochs: int = 2) -> None:
        for _ in range(epochs):
            for batch in self.batches():
                loss = (self.model(batch) - 2 * batch).square().mean()
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.validate()
            if self.is_done(loss.detach()):
                break

    def batches(self) -> list[torch.Tensor]:
        """As many on each rank as on the one that has the fewest samples."""
        return list(self.inputs[: SAMPLES // self.world_size].split(BATCH))

    def validate(self) -> torch.Tensor:
        """The error over the samples of this rank; no rank waits for another."""
        with torch.no_grad():
            return (self.model.module(self.inputs) - 2 * self.inputs).square().mean()

    def is_done(self, loss: torch.Tensor) -> bool:
        """All ranks decide by the mean of their losses."""
        dist.all_reduce(loss)
        return loss.item() / self.world_size < GOOD


class UnevenTrainer(Trainer):
    """Takes all samples that its rank has: some ranks have a batch more."""

    def batches(self) -> list[torch.Tensor]:
        return list(self.inputs.split(BATCH))


class LonelyValidationTrainer(Trainer):
    """Validates on rank 0 only, with the wrapped model, whose forward pass broadcasts buffers."""

    def validate(self) -> torch.Tensor:
        if self.rank == 0:
            self.model(self.inputs)
        return super().validate()


class EarlyStopTrainer(Trainer):
    """Each rank stops when its own loss is good; rank 1 has the easy samples."""

    def is_done(self, loss: torch.Tensor) -> bool:
        return self.rank == 1
