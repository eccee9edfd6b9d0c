"""Tag millions of photos with Ray Data, from and to object stores (extra `ray`).

    import ray
    from anytag import scale

    dataset = ray.data.read_parquet("s3://bucket/photos")
    scale.tag(dataset, column="jpg").write_parquet("s3://bucket/tagged")

`Tag` is the function that `tag` maps over batches, for other pipelines. `run` is `anytag tag --ray`: it
processes units independently, resumes interrupted runs, and can retry failed rows.
"""

from __future__ import annotations

from anytag.scale.estimates import estimate
from anytag.scale.mapping import Tag, caption, tag
from anytag.scale.runs import Options, plan, run
from anytag.scale.stages import Task

__all__ = ["Options", "Tag", "Task", "caption", "estimate", "plan", "run", "tag"]
