"""One rank of a Trainer's DDP: FOLDER RANK WORLD."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(folder: Path, rank: int, world: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    from tests.frameworks.test_hugging_face import trainer, watching

    one = trainer(folder, watching(folder))
    one.train()
    assert isinstance(one.model_wrapped, DistributedDataParallel)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
