"""Millions of photos: the same tags over Ray Data, from and to object stores (extra `ray`).

    import ray
    from anytag import scale

    dataset = ray.data.read_parquet("s3://bucket/photos")
    scale.tag(dataset, column="jpg").write_parquet("s3://bucket/tagged")

`Tag` is what `tag` maps over batches, for pipelines of others. `run` is `anytag tag --ray`: it reads and
writes units apart, goes on where it was killed, and does failed rows again.
"""

from __future__ import annotations

from anytag.scale.estimates import estimate
from anytag.scale.mapping import Tag, caption, tag
from anytag.scale.runs import Options, plan, run
from anytag.scale.stages import Task

__all__ = ["Options", "Tag", "Task", "caption", "estimate", "plan", "run", "tag"]
