"""torch.distributed initialises its group from the environment of the ranks."""

import pytest

torch = pytest.importorskip("torch")


@pytest.mark.elastic(nprocs=4, timeout=60)
def test_all_reduce(rank, world_size):
    torch.distributed.init_process_group("gloo")
    total = torch.tensor([float(rank)])
    torch.distributed.all_reduce(total)
    assert total.item() == sum(range(world_size))
    torch.distributed.destroy_process_group()
