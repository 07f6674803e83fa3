"""Options that every actor pool of the stream has."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import CPUS, DAY_S, GPUS, MOST_ACTORS, NODE_LABEL, option


@dataclass(frozen=True)
class PoolConfig:
    """An actor pool: of the teacher, with teacher.pools=each of one member of an ensemble, or of a generator."""

    device: str = option("auto", choices=("auto", "cpu", "cuda"), identity=False)
    """auto (a GPU if the actor holds one), cpu, or cuda."""
    min_actors: int = option(1, least=1, ceiling=MOST_ACTORS, identity=False)
    """Actors that the pool keeps."""
    max_actors: int = option(1, ceiling=MOST_ACTORS, identity=False)
    """Actors that it may grow to; at least min_actors."""
    num_cpus: float = option(1.0, **CPUS)
    """CPUs that Ray reserves for one actor."""
    num_gpus: float = option(0.0, **GPUS)
    """GPUs that Ray reserves for one actor."""
    node_label: str = option("", **NODE_LABEL)
    """`key=value`: run the actors only on nodes with this Ray label."""
    compile: bool = option(False, identity=False)
    """torch.compile the network in each actor. A teacher then passes batch_frames frames at a time, padded if there are
    fewer (the embedded kinds, echonet_deeplabv3, torchvision, smp). Of a generator, the networks that denoise; a clip
    may then differ by a grey level."""
    timeout_s: float = option(300.0, least=0, ceiling=7 * DAY_S, identity=False)
    """An actor that holds one block for longer hangs: it is ended, replaced, and its block given to another. An
    actor's first block, which may compile or tune, has WARM_UP_FACTOR times as long (0: wait for ever)."""
